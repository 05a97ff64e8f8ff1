package proc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
)

// Handler lets clients say what should run.
//
//	GET  /services                        []Status
//	PUT  /services                        []Service: Define
//	POST /boot?until=NAME                 Boot; answers when it is done
//	POST /services/NAME/start             Start
//	POST /services/NAME/stop              Stop
//	POST /services/NAME/signal?signal=N   Signal
func (s *Supervisor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /services", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Services())
	})
	mux.HandleFunc("PUT /services", func(w http.ResponseWriter, r *http.Request) {
		var services []Service
		if err := json.NewDecoder(r.Body).Decode(&services); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, s.Define(services))
	})
	mux.HandleFunc("POST /boot", func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.Boot(r.Context(), r.FormValue("until")))
	})
	mux.HandleFunc("POST /services/{name}/start", func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.Start(r.PathValue("name")))
	})
	mux.HandleFunc("POST /services/{name}/stop", func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.Stop(r.PathValue("name")))
	})
	mux.HandleFunc("POST /services/{name}/signal", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.FormValue("signal"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, s.Signal(r.PathValue("name"), syscall.Signal(n)))
	})
	return mux
}

func answer(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrUnknown):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// Client talks to a supervisor in another process.
type Client struct {
	http *http.Client
}

// NewClient makes a client that reaches the supervisor by dial.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // a machine may be gone, and another in its place, before the next request
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// Services is Supervisor.Services.
func (c *Client) Services(ctx context.Context) ([]Status, error) {
	data, err := c.do(ctx, http.MethodGet, "/services", nil)
	if err != nil {
		return nil, err
	}
	var all []Status
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("read list of services: %w", err)
	}
	return all, nil
}

// Define is Supervisor.Define.
func (c *Client) Define(ctx context.Context, services []Service) error {
	body, err := json.Marshal(services)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPut, "/services", body)
	return err
}

// Boot is Supervisor.Boot.
func (c *Client) Boot(ctx context.Context, until string) error {
	return c.post(ctx, "/boot?until="+url.QueryEscape(until))
}

// Start is Supervisor.Start.
func (c *Client) Start(ctx context.Context, name string) error {
	return c.post(ctx, "/services/"+url.PathEscape(name)+"/start")
}

// Stop is Supervisor.Stop.
func (c *Client) Stop(ctx context.Context, name string) error {
	return c.post(ctx, "/services/"+url.PathEscape(name)+"/stop")
}

// Signal is Supervisor.Signal.
func (c *Client) Signal(ctx context.Context, name string, sig syscall.Signal) error {
	return c.post(ctx, "/services/"+url.PathEscape(name)+"/signal?signal="+strconv.Itoa(int(sig)))
}

func (c *Client) post(ctx context.Context, path string) error {
	_, err := c.do(ctx, http.MethodPost, path, nil)
	return err
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://machine"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reach the machine's first process: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of the machine's first process: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return data, nil
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s%w", strings.TrimSuffix(strings.TrimSpace(string(data)), ErrUnknown.Error()), ErrUnknown)
	default:
		return nil, errors.New(strings.TrimSpace(string(data)))
	}
}
