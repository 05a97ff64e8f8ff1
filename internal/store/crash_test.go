package store

const childEnv = "STORE_TEST_CHILD"

func child(string) {}
