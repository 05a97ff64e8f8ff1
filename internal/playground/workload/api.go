package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// account is where a pod finds its token, and by what to know the API server.
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// api reads one ConfigMap as programs in pods do, again and again, and writes a line for each answer, to the end of a file if one is
// named:
//
//	2006-01-02T15:04:05.000Z WAY VERDICT "GREETING"
//
// The time is when the attempt began. The ways are env, a get by a client-go that finds the API server by its environment; the URLs that
// are named, each a list over a connection of its own with the token and the certificate that the pod has; and watch, which tells of each
// change that an informer sees. The verdict is ok or failed, and the greeting then the error.
func api(ctx context.Context, namespace, name, file string, urls []string) (err error) {
	out, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	var mu sync.Mutex // of out
	tell := func(begun time.Time, way, greeting string, err error) {
		verdict := "ok"
		if err != nil {
			verdict, greeting = "failed", err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, "%s %s %s %q\n", begun.UTC().Format("2006-01-02T15:04:05.000Z"), way, verdict, greeting)
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	var ways sync.WaitGroup
	defer ways.Wait()
	ways.Go(func() { follow(ctx, client, namespace, name, tell) })
	ways.Go(func() {
		again(ctx, func(ctx context.Context) {
			begun := time.Now()
			found, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				found = &corev1.ConfigMap{}
			}
			tell(begun, "env", found.Data[greetingKey], err)
		})
	})
	for _, url := range urls {
		ways.Go(func() {
			again(ctx, func(ctx context.Context) {
				begun := time.Now()
				greeting, err := listOver(ctx, url, namespace, name)
				tell(begun, url, greeting, err)
			})
		})
	}
	return nil
}

const greetingKey = "greeting"

// again does something each half second, and gives each attempt a few.
func again(ctx context.Context, attempt func(context.Context)) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		attempt(one)
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follow tells of what an informer sees of the ConfigMap.
func follow(ctx context.Context, client kubernetes.Interface, namespace, name string, tell func(time.Time, string, string, error)) {
	seen := func(object any) {
		if c, ok := object.(*corev1.ConfigMap); ok {
			tell(time.Now(), "watch", c.Data[greetingKey], nil)
		}
	}
	source := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", namespace, fields.OneTermEqualSelector("metadata.name", name))
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source, ObjectType: &corev1.ConfigMap{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: seen, UpdateFunc: func(_, now any) { seen(now) }},
	})
	informer.RunWithContext(ctx)
}

// listOver lists over a connection of its own, with nothing but what the pod has in its files.
func listOver(ctx context.Context, url, namespace, name string) (string, error) {
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return "", err
	}
	token, err := os.ReadFile(filepath.Join(account, "token"))
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/v1/namespaces/"+namespace+"/configmaps", http.NoBody)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var list corev1.ConfigMapList
	if err := json.Unmarshal(body, &list); err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %.200s", resp.Status, body)
	}
	for _, c := range list.Items {
		if c.Name == name {
			return c.Data[greetingKey], nil
		}
	}
	return "", fmt.Errorf("%d ConfigMaps, and none is %s", len(list.Items), name)
}
