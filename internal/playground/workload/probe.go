package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

// patience is how long an attempt may take, from the question for the name to the end of the answer.
const patience = time.Second

// probe fetches a URL each period, whether or not the attempt before has ended, and writes a line when an attempt ends:
//
//	2006-01-02T15:04:05.000Z VERDICT ADDRESS "ANSWER"
//
// The time is when it began. The verdict is ok, unresolved if the URL's host has no address, or failed. The address is what the name
// was resolved to, or - if it was not. The answer is the body, or the error. Nothing is kept from one attempt to the next: the name
// is resolved anew, over a connection of its own.
func probe(ctx context.Context, target, period, file string, out io.Writer) error {
	every, err := time.ParseDuration(period)
	if err != nil {
		return err
	}
	if file != "" {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	var attempts sync.WaitGroup
	defer attempts.Wait()
	var mu sync.Mutex // of out
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		attempts.Go(func() {
			begun := time.Now()
			verdict, address, answer := attempt(ctx, target)
			if ctx.Err() != nil {
				return // cut short: it says nothing of the server
			}
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(out, "%s %s %s %q\n", begun.UTC().Format("2006-01-02T15:04:05.000Z"), verdict, address, answer)
		})
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func attempt(ctx context.Context, target string) (verdict, address, answer string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	parsed, err := url.Parse(target)
	if err != nil {
		return "failed", "-", err.Error()
	}
	found, err := net.DefaultResolver.LookupHost(ctx, parsed.Hostname())
	if err != nil {
		return "unresolved", "-", err.Error()
	}
	dialer := net.Dialer{Timeout: patience}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, hostport string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(hostport)
			if err != nil {
				return nil, err
			}
			return dialer.DialContext(ctx, network, net.JoinHostPort(found[0], port))
		},
	}}
	body, err := fetch(ctx, client, target)
	if err != nil {
		return "failed", found[0], err.Error()
	}
	return "ok", found[0], string(body)
}

func fetch(ctx context.Context, client *http.Client, target string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<16))
}
