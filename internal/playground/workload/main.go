// Command workload is the only program in the playground's images: a server that shows what a pod has, and the few tools that
// a test runs inside of a pod, where there is neither shell nor library.
//
// It talks to the API server only when it is told to, as any program in a pod would, and keeps nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const usage = `usage: workload serve [ADDRESS [DOWN]]    serve what the pod has (default :8080); fail while there is a file DOWN
       workload pause                     wait until told to end
       workload get URL                   fetch and print
       workload probe URL PERIOD [FILE]   fetch again and again, one line each, to the end of a file if one is named
       workload api NAMESPACE NAME FILE [URL]...   read a ConfigMap again and again, in all ways that pods have, and write a line each time
       workload cat FILE                  print a file
       workload env                       print the environment`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	arg := func(n int, otherwise string) string {
		if n < len(args) {
			return args[n]
		}
		return otherwise
	}
	switch arg(0, "") {
	case "serve":
		return serve(ctx, arg(1, ":8080"), arg(2, ""))
	case "pause":
		<-ctx.Done()
		return nil
	case "get":
		return get(ctx, arg(1, ""), out)
	case "probe":
		return probe(ctx, arg(1, ""), arg(2, "100ms"), arg(3, ""), out)
	case "api":
		if len(args) < 4 {
			return errors.New(usage)
		}
		return api(ctx, args[1], args[2], args[3], args[4:])
	case "cat":
		f, err := os.Open(arg(1, ""))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(out, f)
		return err
	case "env":
		for _, e := range os.Environ() {
			fmt.Fprintln(out, e)
		}
		return nil
	default:
		return errors.New(usage)
	}
}

func serve(ctx context.Context, address, down string) error {
	if _, err := os.Stat(down); err == nil {
		return fmt.Errorf("told to stay down by %s", down)
	}
	srv := &http.Server{Addr: address, Handler: handler(os.Exit), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = srv.Close()
	}()
	fmt.Println("serving on", address)
	err := srv.ListenAndServe()
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

// handler serves
//
//	GET  /            the host's name and the image's version
//	GET  /env/NAME    a variable of the environment
//	GET  /file/PATH   a file, for example of a volume
//	GET  /readyz      for a readiness probe; POST /readyz?ready=false makes it fail
//	POST /exit        the process ends
func handler(exit func(int)) http.Handler {
	var unready atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		name, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, name, os.Getenv("WORKLOAD_VERSION"))
	})
	mux.HandleFunc("GET /env/{name}", func(w http.ResponseWriter, r *http.Request) {
		value, ok := os.LookupEnv(r.PathValue("name"))
		if !ok {
			http.Error(w, "no such variable", http.StatusNotFound)
			return
		}
		fmt.Fprint(w, value)
	})
	mux.HandleFunc("GET /file/{path...}", func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile("/" + r.PathValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(data)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if unready.Load() {
			http.Error(w, "told to be unready", http.StatusServiceUnavailable)
			return
		}
	})
	mux.HandleFunc("POST /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready, err := strconv.ParseBool(r.FormValue("ready"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		unready.Store(!ready)
	})
	mux.HandleFunc("POST /exit", func(http.ResponseWriter, *http.Request) { exit(1) })
	return mux
}

func get(ctx context.Context, target string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body, err := fetch(ctx, http.DefaultClient, target)
	if err != nil {
		return fmt.Errorf("get %s: %w", target, err)
	}
	_, err = out.Write(body)
	return err
}
