package peer

import (
	"crypto/tls"
	"net"
	"testing"
)

// TestProbe: a node of a cluster is known by what it shows to anybody; whatever
// else listens is none.
func TestProbe(t *testing.T) {
	n1 := newCluster(t)
	_, address := startOffice(t, n1)
	cluster, name, err := Probe(t.Context(), address, Options{})
	if err != nil || cluster != n1.ClusterID() || name != "n1" {
		t.Errorf("got %q, %q, %v", cluster, name, err)
	}
	// A server of TLS with a certificate that no CA of a cluster has signed.
	other, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{NextProtos: []string{ProtoJoin},
		Certificates: []tls.Certificate{{Certificate: [][]byte{n1.ca.cert.Raw}, PrivateKey: n1.ca.key}}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			go func() { c.(*tls.Conn).Handshake(); c.Close() }()
		}
	}()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	for _, address := range []string{other.Addr().String(), dead.Addr().String()} {
		if cluster, name, err := Probe(t.Context(), address, Options{}); err == nil {
			t.Errorf("%s: got %q, %q", address, cluster, name)
		}
	}
}
