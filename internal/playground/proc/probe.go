package proc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

const probePeriod = 50 * time.Millisecond

// await tries until the probe succeeds or ctx ends; the error is then that of the last attempt.
func (p Probe) await(ctx context.Context) error {
	client := &http.Client{
		Timeout: time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // asks whether a local service is up, nothing else
		},
	}
	for {
		err := p.try(ctx, client)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(probePeriod):
		}
	}
}

func (p Probe) try(ctx context.Context, client *http.Client) error {
	if p.Unix != "" {
		conn, err := net.DialTimeout("unix", p.Unix, time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.HTTP, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return errors.Unwrap(err)
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", p.HTTP, resp.Status)
	}
	return nil
}
