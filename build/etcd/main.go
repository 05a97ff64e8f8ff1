// Command etcd is the server of go.etcd.io/etcd, which publishes it as a package only.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
