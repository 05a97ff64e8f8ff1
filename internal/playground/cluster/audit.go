package cluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Request is one line of an API server's audit log: a request at the first or at the last byte of its answer.
type Request struct {
	AuditID                  string    `json:"auditID"`
	Stage                    string    `json:"stage"` // ResponseStarted (long-running requests only) or ResponseComplete
	Verb                     string    `json:"verb"`
	RequestURI               string    `json:"requestURI"`
	UserAgent                string    `json:"userAgent"`
	SourceIPs                []string  `json:"sourceIPs"`
	RequestReceivedTimestamp time.Time `json:"requestReceivedTimestamp"`
	StageTimestamp           time.Time `json:"stageTimestamp"`
	User                     struct {
		Username string   `json:"username"`
		Groups   []string `json:"groups"`
	} `json:"user"`
	ObjectRef struct {
		APIGroup    string `json:"apiGroup"`
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// AuditMark is a place in the audit logs of all API servers.
type AuditMark []int64

// AuditNow returns the place where the audit logs end now.
func (c *Cluster) AuditNow() (AuditMark, error) {
	var mark AuditMark
	for i := range c.Config.APIServers {
		info, err := os.Stat(c.auditFile(i))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			mark = append(mark, 0)
		case err != nil:
			return nil, err
		default:
			mark = append(mark, info.Size())
		}
	}
	return mark, nil
}

// AuditSince returns the requests written down since a place, server by server; all if it is nil.
func (c *Cluster) AuditSince(mark AuditMark) ([]Request, error) {
	var all []Request
	for i := range c.Config.APIServers {
		var from int64
		if i < len(mark) {
			from = mark[i]
		}
		requests, err := readAudit(c.auditFile(i), from)
		if err != nil {
			return nil, fmt.Errorf("read audit log of %s: %w", APIServer(i), err)
		}
		all = append(all, requests...)
	}
	return all, nil
}

func (c *Cluster) auditFile(i int) string {
	return filepath.Join(c.LogDir(), cloudName, filepath.Base(auditLog(i)))
}

func readAudit(file string, from int64) ([]Request, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	if from > 0 { // A file grows page by page: the place may lie within a line, which was written before it then.
		if _, err := f.Seek(from-1, io.SeekStart); err != nil {
			return nil, err
		}
		if _, err := r.ReadBytes('\n'); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	var all []Request
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return all, nil // a last line without its end is being written
		}
		if err != nil {
			return nil, err
		}
		var req Request
		if err := json.Unmarshal(line, &req); err != nil {
			return nil, err
		}
		all = append(all, req)
	}
}
