package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// The encodings that clients ask for, as the kubelet does and as most pods do.
const (
	Protobuf = "application/vnd.kubernetes.protobuf,application/json"
	JSON     = "application/json"
)

// Server is where clients connect to, and as whom.
type Server struct {
	URL   string
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Cert  *tls.Certificate
	Token string
}

// Client is one connection.
type Client struct {
	server    Server
	transport *http.Transport
	buffer    []byte
}

// New returns a client. Nothing is connected before the first request.
func New(s Server) *Client {
	// Whose certificate it is was not the question.
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // see above
	if s.Cert != nil && s.Token == "" {
		config.Certificates = []tls.Certificate{*s.Cert}
	}
	return &Client{server: s, transport: &http.Transport{DialContext: s.Dial, TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

// Close ends the connection.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func (c *Client) send(ctx context.Context, method, path, accept string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.server.URL+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", "kubelet/v1.37.2 (linux/amd64) kubernetes/bench")
	if c.server.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.server.Token)
	}
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("%s %s%s: %w", method, c.server.URL, path, err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // it is there to explain another error
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s%s: %s: %s", method, c.server.URL, path, resp.Status, text)
	}
	return resp, nil
}

// Get reads an answer to its end and returns how many bytes it had. They stay in the client's buffer until the next call.
func (c *Client) Get(ctx context.Context, path, accept string) (int, error) {
	resp, err := c.send(ctx, http.MethodGet, path, accept, http.NoBody)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if need := int(resp.ContentLength); need >= cap(c.buffer) {
		c.buffer = make([]byte, need+1)
	}
	buffer := bytes.NewBuffer(c.buffer[:0])
	n, err := buffer.ReadFrom(resp.Body)
	c.buffer = buffer.Bytes()
	if err != nil {
		return int(n), fmt.Errorf("read answer to %s: %w", path, err)
	}
	return int(n), nil
}

// Items returns how many objects the list in the buffer has, if it is in protobuf.
func (c *Client) Items() (int, error) {
	list, err := unwrap(c.buffer)
	if err != nil {
		return 0, err
	}
	n := 0
	for len(list) > 0 {
		number, typ, size := protowire.ConsumeTag(list)
		if size < 0 {
			return 0, fmt.Errorf("count items: %w", protowire.ParseError(size))
		}
		value := protowire.ConsumeFieldValue(number, typ, list[size:])
		if value < 0 {
			return 0, fmt.Errorf("count items: %w", protowire.ParseError(value))
		}
		if number == 2 {
			n++
		}
		list = list[size+value:]
	}
	return n, nil
}

// Version returns the version of the list in the buffer, if it is in protobuf.
func (c *Client) Version() (string, error) {
	list, err := unwrap(c.buffer)
	if err != nil {
		return "", err
	}
	meta := field(list, 1)
	version := field(meta, 2)
	return string(version), nil
}

// unwrap returns the object within an answer in protobuf.
func unwrap(body []byte) ([]byte, error) {
	unknown, ok := bytes.CutPrefix(body, []byte("k8s\x00"))
	if !ok {
		return nil, fmt.Errorf("read answer of %d bytes: it is not protobuf", len(body))
	}
	object := field(unknown, 2)
	return object, nil
}

// field returns the first field of a number that has a length, nil if there is none.
func field(message []byte, want protowire.Number) []byte {
	for len(message) > 0 {
		number, typ, size := protowire.ConsumeTag(message)
		if size < 0 {
			return nil
		}
		value := protowire.ConsumeFieldValue(number, typ, message[size:])
		if value < 0 {
			return nil
		}
		if number == want && typ == protowire.BytesType {
			content, _ := protowire.ConsumeBytes(message[size:])
			return content
		}
		message = message[size+value:]
	}
	return nil
}

// Emit lets a canned API server make n events, and returns when it has made them. A rate of 0 makes all at once.
func (c *Client) Emit(ctx context.Context, emitPath, table string, n, rate int) error {
	form := url.Values{"table": {table}, "n": {strconv.Itoa(n)}, "rate": {strconv.Itoa(rate)}}
	resp, err := c.send(ctx, http.MethodPost, emitPath+"?"+form.Encode(), JSON, strings.NewReader(""))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("emit %d events: %w", n, err)
	}
	return nil
}

// Await asks until an answer is as wanted, and returns how long it took. Errors are what it waits out.
func Await(ctx context.Context, every time.Duration, try func() error) (time.Duration, error) {
	start := time.Now()
	for {
		err := try()
		if err == nil {
			return time.Since(start), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(every):
		}
	}
}
