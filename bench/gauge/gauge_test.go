package gauge

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCPU(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); n++ {
		if now, err := CPU(os.Getpid()); err != nil || now >= before+5*tick {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Errorf("after %d readings no processor time has been used", n)
}

func TestPeak(t *testing.T) {
	const size = 64
	before, err := MemoryOf(os.Getpid())
	if err != nil || before.Anon == 0 || before.RSS < before.Anon {
		t.Fatalf("memory %+v: %v", before, err)
	}
	var held []byte
	most, err := Peak(context.Background(), os.Getpid(), func() error {
		held = make([]byte, size<<20)
		for i := 0; i < len(held); i += 4096 {
			held[i] = 1
		}
		time.Sleep(time.Second)
		return nil
	})
	if err != nil || most < before.Anon+size/2 || held[0] != 1 {
		t.Errorf("peak %.0f MiB after %d MiB more than %.0f: %v", most, size, before.Anon, err)
	}
}

func TestEvictKeepsContent(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Evict(dir); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "content" {
		t.Errorf("%q after eviction: %v", data, err)
	}
	if err := Evict(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there is evicted")
	}
}

func TestFdatasync(t *testing.T) {
	p50, p99, err := Fdatasync(t.TempDir())
	if err != nil || p50 <= 0 || p99 < p50 {
		t.Errorf("p50 %v, p99 %v: %v", p50, p99, err)
	}
}
