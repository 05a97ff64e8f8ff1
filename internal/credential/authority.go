package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"yurt/internal/atomicfile"
)

// The files of an authority.
const (
	authorityKeyFile    = "ca.pem" // certificate and key, 0600
	podAuthorityKeyFile = "pods-ca.pem"
	// AuthorityFile is the certificate alone, for the kubeconfigs of clients.
	AuthorityFile = "ca.crt"
	// PodAuthorityFile is the same of the authority that pods trust.
	PodAuthorityFile = "pods-ca.crt"
)

// Authority is a certificate authority of the hub's own, by which its clients
// know it. It is made when it is first needed and vouches for its own names only,
// so that whoever steals it can't pose as anything else: for loopback addresses,
// or, in another authority, for those under which pods reach the API server on
// this node.
//
// Its certificates are valid from 1970 on and without end (RFC 5280, 4.1.2.5): a
// node whose clock is wrong at boot, or that was in the dark for years, must
// still reach its own hub.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	names       Names
}

// Names are what an authority vouches for, and all that its certificates show.
type Names struct {
	IPs []net.IP
	DNS []string
}

// OpenAuthority opens the authority for loopback.
func OpenAuthority(dir string, log *slog.Logger) (*Authority, error) {
	loopback := Names{IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNS: []string{"localhost"}}
	return openAuthority(dir, authorityKeyFile, AuthorityFile, loopback, log)
}

// OpenPodAuthority opens the authority that pods trust.
func OpenPodAuthority(dir string, names Names, log *slog.Logger) (*Authority, error) {
	return openAuthority(dir, podAuthorityKeyFile, PodAuthorityFile, names, log)
}

// openAuthority reads the authority in dir, or makes one if there is none. One
// that is damaged, or that is for other names, is set aside, and a new one takes
// its place: clients that run have to be restarted then, but the node is not
// without a hub.
func openAuthority(dir, keyFile, publicFile string, names Names, log *slog.Logger) (*Authority, error) {
	path := filepath.Join(dir, keyFile)
	pair, key, err := readAuthority(path)
	if err == nil && !names.are(pair.Leaf) {
		err = &damagedAuthorityError{errors.New("it is for other names")}
	}
	var damaged *damagedAuthorityError
	if errors.As(err, &damaged) {
		log.Error("the hub's certificate authority can't be used and is set aside; clients need a restart to trust the new one", "file", path, "error", err)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return nil, fmt.Errorf("set the hub's damaged certificate authority aside: %w", err)
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = createAuthority(path, names); err == nil {
			pair, key, err = readAuthority(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the hub's certificate authority: %w", err)
	}
	// The public part is a copy: whatever became of it, clients need it right.
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	name := filepath.Join(dir, publicFile)
	if old, err := os.ReadFile(name); err != nil || !bytes.Equal(old, public) {
		if err := atomicfile.Write(name, public, 0o644); err != nil {
			return nil, err
		}
	}
	return &Authority{certificate: pair.Leaf, key: key, names: names}, nil
}

// PEM is the authority's certificate, as clients read it.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// ranges are the names' addresses as an authority is constrained to them. All of
// 127.0.0.0/8 is loopback.
func (n Names) ranges() []*net.IPNet {
	var ranges []*net.IPNet
	for _, ip := range n.IPs {
		mask := net.CIDRMask(128, 128)
		if v4 := ip.To4(); v4 != nil {
			ip, mask = v4, net.CIDRMask(32, 32)
			if ip.IsLoopback() {
				mask = net.CIDRMask(8, 32)
			}
		}
		ranges = append(ranges, &net.IPNet{IP: ip.Mask(mask), Mask: mask})
	}
	return ranges
}

// are tells whether an authority is constrained to these names.
func (n Names) are(authority *x509.Certificate) bool {
	want, have := n.ranges(), authority.PermittedIPRanges
	return slices.Equal(n.DNS, authority.PermittedDNSDomains) &&
		slices.EqualFunc(want, have, func(a, b *net.IPNet) bool { return a.String() == b.String() })
}

// damagedAuthorityError: the file is there, and is not a certificate with its key.
type damagedAuthorityError struct{ err error }

func (e *damagedAuthorityError) Error() string { return e.err.Error() }
func (e *damagedAuthorityError) Unwrap() error { return e.err }

func readAuthority(path string) (tls.Certificate, *ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return tls.Certificate{}, nil, &damagedAuthorityError{err}
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return tls.Certificate{}, nil, &damagedAuthorityError{errors.New("its key is not an ECDSA key")}
	}
	return pair, key, nil
}

func createAuthority(path string, names Names) error {
	// The directory is open to all who are to read the public part.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template, err := newCertificate("yurthub")
	if err != nil {
		return err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	template.PermittedDNSDomainsCritical = true
	template.PermittedDNSDomains = names.DNS
	template.PermittedIPRanges = names.ranges()
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	data := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
	return atomicfile.Write(path, data, 0o600)
}

// Serving makes a certificate for the hub's listeners. Its key lives as long as
// the process.
func (a *Authority) Serving() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	template, err := newCertificate("yurthub")
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = a.names.DNS
	template.IPAddresses = a.names.IPs
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func newCertificate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}, nil
}
