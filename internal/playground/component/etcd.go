package component

// EtcdURL is where etcd serves; only the cloud's own processes reach it.
const EtcdURL = "http://127.0.0.1:2379"

// Etcd is the cluster's database.
type Etcd struct {
	ExtraArgs []string
}

// Argv returns the command line. Nothing is synced to disk: no test cuts the cloud's power.
func (e Etcd) Argv() []string {
	return append([]string{
		"etcd",
		"--name=cloud",
		"--data-dir=/var/lib/etcd",
		"--listen-client-urls=" + EtcdURL,
		"--advertise-client-urls=" + EtcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=cloud=http://127.0.0.1:2380",
		"--unsafe-no-fsync",
		"--log-level=warn",
	}, e.ExtraArgs...)
}
