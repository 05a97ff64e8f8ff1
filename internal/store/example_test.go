package store_test

import (
	"context"
	"fmt"
	"os"

	"yurt/internal/store"
)

// A list is staged and swapped in, changes are committed, and a watcher that knows the list gets them.
func Example() {
	dir, err := os.MkdirTemp("", "store")
	check(err)
	defer os.RemoveAll(dir)
	s, err := store.Open(dir, store.Options{})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()

	pods, err := s.Table("pods", store.KeepHistory)
	check(err)
	list := pods.Stage()
	check(list.Add(ctx, store.Record{Key: "default/web", Revision: 7, Identity: "uid-1", Value: []byte("pending")}))
	_, err = list.Swap(ctx, 10, nil)
	check(err)

	view := pods.View()
	for r, err := range view.Records("") {
		check(err)
		fmt.Printf("%s@%d %s\n", r.Key, r.Revision, r.Value)
	}
	watch := view.Cursor()
	view.Release()

	var b store.Batch
	b.Put(pods, store.Record{Key: "default/web", Revision: 11, Identity: "uid-1", Value: []byte("running")})
	b.SetRevision(pods, 12)
	check(s.Commit(ctx, &b))

	events, err := watch.Next(100)
	check(err)
	for _, e := range events {
		fmt.Printf("%s %s@%d %s\n", e.Type, e.Key, e.Revision, e.Value)
	}
	fmt.Printf("complete to %d\n", watch.Revision())

	cancel()
	check(<-ended)
	check(s.Close())
	// Output:
	// default/web@7 pending
	// MODIFIED default/web@11 running
	// complete to 12
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
