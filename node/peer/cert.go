package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"mailnode/storage/slot"
)

// validityYears is written into certificates because X.509 wants dates. Nobody
// in mailnode reads them (law 11).
const validityYears = 10

// Fingerprint is the SHA-256 of a CA certificate in DER, as lower-case hex.
type Fingerprint string

func fingerprint(ca *x509.Certificate) Fingerprint {
	sum := sha256.Sum256(ca.Raw)
	return Fingerprint(hex.EncodeToString(sum[:]))
}

// memberURI is the URI name in a node's certificate: it ties the node to one
// cluster even if two clusters were ever given the same CA.
func memberURI(cluster string, name slot.NodeName) *url.URL {
	return &url.URL{Scheme: "mailnode", Host: cluster, Path: "/" + string(name)}
}

// authority is a CA that can sign, or without its key only be checked against.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand crashes the program instead
	b[0] &= 0x7f    // RFC 5280, section 4.1.2.2: positive
	b[15] |= 1
	return new(big.Int).SetBytes(b[:])
}

// newAuthority makes the CA of a cluster. now is only written into it.
func newAuthority(cluster string, now time.Time) (authority, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("make CA key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "mailnode cluster " + cluster},
		NotBefore:             now.UTC(),
		NotAfter:              now.UTC().AddDate(validityYears, 0, 0),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return authority{}, fmt.Errorf("make CA certificate of cluster %q: %w", cluster, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, fmt.Errorf("read CA certificate of cluster %q: %w", cluster, err)
	}
	return authority{cert: cert, key: key}, nil
}

// issue makes a node's certificate. Its dates are the CA's: a node whose clock
// is wrong issues the same as any other.
func (a authority) issue(cluster string, name slot.NodeName, public ed25519.PublicKey) (*x509.Certificate, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: string(name)},
		NotBefore:             a.cert.NotBefore,
		NotAfter:              a.cert.NotAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:              []string{string(name)},
		URIs:                  []*url.URL{memberURI(cluster, name)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate of node %q: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate of node %q: %w", name, err)
	}
	return cert, nil
}

// checkAuthority reports whether a certificate can be the CA of a cluster.
func checkAuthority(ca *x509.Certificate) error {
	if !ca.IsCA || !ca.BasicConstraintsValid {
		return errors.New("check CA certificate: it is not one of a CA")
	}
	if err := ca.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("check CA certificate: %w", err)
	}
	return nil
}

// checkMember returns the node that a certificate speaks for. The chain has
// always two links, so it is checked by hand: the signature of the CA and the
// names, but no date (law 11; x509.Verify cannot leave dates out).
func checkMember(cert, ca *x509.Certificate, cluster string) (slot.NodeName, error) {
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return "", fmt.Errorf("%w: certificate of %q is not signed by the CA of cluster %q", ErrStranger, shorten(cert.Subject.CommonName, 80), cluster)
	}
	if cert.IsCA || len(cert.UnhandledCriticalExtensions) > 0 || len(cert.DNSNames) != 1 || len(cert.URIs) != 1 ||
		!slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return "", fmt.Errorf("%w: certificate of %q is not one of a node", ErrStranger, shorten(cert.Subject.CommonName, 80))
	}
	name := slot.NodeName(cert.DNSNames[0])
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("%w: %w", ErrStranger, err)
	}
	if got, want := cert.URIs[0].String(), memberURI(cluster, name).String(); got != want {
		return "", fmt.Errorf("%w: certificate of %q is for %q, want %q", ErrOtherCluster, name, shorten(got, 120), want)
	}
	return name, nil
}
