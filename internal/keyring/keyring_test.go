package keyring

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func key(seed byte) []byte {
	k := make([]byte, keySize)
	for i := range k {
		k[i] = seed + byte(i)*7
	}
	return k
}

func text(keys ...[]byte) string {
	var lines strings.Builder
	for _, k := range keys {
		lines.WriteString(base64.StdEncoding.EncodeToString(k) + "\n")
	}
	return lines.String()
}

func write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func equal(a [][]byte, b ...[]byte) bool {
	return bytes.Equal(bytes.Join(a, []byte("|")), bytes.Join(b, []byte("|")))
}

// TestOrder: a named file before systemd's credential before the key made here, which stays as the oldest.
func TestOrder(t *testing.T) {
	dir, credentials := t.TempDir(), t.TempDir()
	log := slog.New(slog.DiscardHandler)
	places := Places{Dir: filepath.Join(dir, "root")}

	made, err := Open(places, log)
	if err != nil || !made.Local || len(made.Keys) != 1 || len(made.Keys[0]) != keySize {
		t.Fatalf("%+v, %v", made, err)
	}
	local := made.Keys[0]
	info, err := os.Stat(filepath.Join(places.Dir, LocalFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if again, err := Open(places, log); err != nil || !equal(again.Keys, local) {
		t.Errorf("another key the second time, %v", err)
	}

	places.Credentials = credentials
	if ring, err := Open(places, log); err != nil || !ring.Local {
		t.Errorf("credentials without the key: %+v, %v", ring, err)
	}
	write(t, filepath.Join(credentials, CredentialName), string(key(1)), 0o440)
	if ring, err := Open(places, log); err != nil || ring.Local || !equal(ring.Keys, key(1), local) || !strings.Contains(ring.Source, "systemd") {
		t.Errorf("credential: %q, %v", ring.Source, err)
	}
	places.File = write(t, filepath.Join(dir, "key"), text(key(3), key(2)), 0o600)
	if ring, err := Open(places, log); err != nil || ring.Local || !equal(ring.Keys, key(3), key(2), local) || ring.Source != "file "+places.File {
		t.Errorf("file: %+v, %v", ring, err)
	}
	write(t, places.File, text(local), 0o400)
	if ring, err := Open(places, log); err != nil || !equal(ring.Keys, local) {
		t.Errorf("the same key in both places: %v", err)
	}
	if err := os.Remove(places.File); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(places, log); err == nil {
		t.Error("a file that is named and not there is replaced by another key")
	}
}

// TestRefusals: each error says what is wrong and repeats nothing of the key.
func TestRefusals(t *testing.T) {
	secret := text(key(1))
	for name, tc := range map[string]struct {
		content string
		mode    os.FileMode
		want    string
	}{
		"short":            {string(key(1)[:31]), 0o600, "want 32 raw bytes"},
		"empty":            {"", 0o600, "it has no key"},
		"a line too much":  {secret + "more", 0o600, "line 2"},
		"a short line":     {base64.StdEncoding.EncodeToString(key(1)[:16]), 0o600, "line 1"},
		"zeros":            {strings.Repeat("\x00", keySize), 0o600, "the same"},
		"a passphrase":     {"correct horse battery staple now", 0o600, "is text"},
		"twice":            {secret + secret, 0o600, "twice"},
		"group":            {secret, 0o640, "mode 0640"},
		"others may write": {secret, 0o602, "mode 0602"},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "key"), tc.content, tc.mode)
			_, err := Open(Places{File: file, Dir: t.TempDir()}, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), file) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if len(tc.content) > 8 && strings.Contains(err.Error(), tc.content[:8]) {
				t.Errorf("the error has the key: %v", err)
			}
		})
	}
}

// TestForeignFiles: what somebody else can put there is not read.
func TestForeignFiles(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	t.Run("a link beside the data", func(t *testing.T) {
		dir := t.TempDir()
		target := write(t, filepath.Join(t.TempDir(), "key"), text(key(1)), 0o600)
		if err := os.Symlink(target, filepath.Join(dir, LocalFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Places{Dir: dir}, log); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a pipe", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "key")
		if err := unix.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Places{File: name, Dir: t.TempDir()}, log); err == nil || !strings.Contains(err.Error(), "regular") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another owner", func(t *testing.T) {
		if os.Geteuid() != 0 {
			if os.Getenv("CI") == "true" {
				t.Fatal("needs root")
			}
			t.Skip("needs root")
		}
		name := write(t, filepath.Join(t.TempDir(), "key"), text(key(1)), 0o600)
		if err := os.Chown(name, 4321, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Places{File: name, Dir: t.TempDir()}, log); err == nil || !strings.Contains(err.Error(), "user 4321") {
			t.Errorf("got %v", err)
		}
	})
}

// TestDamagedLocalKey: the node is not lost with it.
func TestDamagedLocalKey(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, LocalFile), "AAAA", 0o600)
	ring, err := Open(Places{Dir: dir}, slog.New(slog.DiscardHandler))
	if err != nil || len(ring.Keys) != 1 || !ring.Local {
		t.Fatalf("%+v, %v", ring, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, LocalFile+".damaged")); err != nil || string(data) != "AAAA" {
		t.Errorf("not set aside: %q, %v", data, err)
	}
}
