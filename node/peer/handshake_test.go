package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"mailnode/storage/slot"
)

func TestHandshakeRight(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	s := startServer(t, n1, Options{Features: []string{"zstd"}})
	for _, proto := range memberProtos() {
		for _, name := range []slot.NodeName{"n1", ""} {
			c, err := NewDialer(n2, Options{Features: []string{"new"}}).Dial(t.Context(), proto, name, s.Addr().String())
			if err != nil {
				t.Fatalf("%s to %q: %v", proto, name, err)
			}
			if c.Peer() != "n1" || c.Proto() != proto || !c.Hello().Has("zstd") || c.Hello().Generation != 1 {
				t.Errorf("dialler knows %q %q %+v", c.Peer(), c.Proto(), c.Hello())
			}
			c.Close()
		}
	}
	got := s.handedOn(t, 6)
	if len(got) != 6 {
		t.Fatalf("%d connections were handed on, want 6", len(got))
	}
	for _, c := range got {
		if c.Peer() != "n2" || !c.Hello().Has("new") {
			t.Errorf("the one dialled knows %q %+v", c.Peer(), c.Hello())
		}
	}
}

// TestBytesAfterHello: what follows HELLO at once reaches the protocol.
func TestBytesAfterHello(t *testing.T) {
	n1 := newCluster(t)
	p, err := Listen("127.0.0.1:0", n1, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := NewDialer(newMember(t, n1, "n2"), Options{}).Dial(t.Context(), ProtoClient, "n1", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "a1 NOOP\r\n"); err != nil {
		t.Fatal(err)
	}
	there, err := p.Listener(ProtoClient).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	got := make([]byte, 9)
	if _, err := io.ReadFull(there, got); err != nil || string(got) != "a1 NOOP\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestHandshakeRefused is the matrix of those who must not get in, on each
// protocol: the dialler has an error, and the server hands nothing on.
func TestHandshakeRefused(t *testing.T) {
	n1 := newCluster(t)
	behind, ahead := newMember(t, n1, "n2"), newMember(t, n1, "n2")
	if err := n1.SetGeneration(3); err != nil {
		t.Fatal(err)
	}
	if err := behind.SetGeneration(2); err != nil {
		t.Fatal(err)
	}
	if err := ahead.SetGeneration(4); err != nil {
		t.Fatal(err)
	}
	stranger, err := Init(t.TempDir(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	sameCA := newMember(t, &Identity{cluster: strings.Repeat("0", 32), ca: n1.ca, generation: 3}, "n2")
	rows := []struct {
		name   string
		caller *Identity
		target slot.NodeName
		want   func(error) bool
	}{
		{"wrong CA", stranger, "n1", func(err error) bool { return errors.Is(err, ErrStranger) }},
		{"other cluster", sameCA, "n1", func(err error) bool { return errors.Is(err, ErrOtherCluster) }},
		{"wrong name", newMember(t, n1, "n2"), "n3", func(err error) bool { return errors.Is(err, ErrWrongName) }},
		{"lower generation", behind, "n1", func(err error) bool {
			return strings.Contains(err.Error(), `this node belongs to generation 2, "n1" to 3: this node was left behind`)
		}},
		{"higher generation", ahead, "n1", func(err error) bool {
			return strings.Contains(err.Error(), `this node belongs to generation 4, "n1" to 3: it was left behind by `+"`cluster recover`")
		}},
	}
	for _, row := range rows {
		for _, proto := range memberProtos() {
			s := startServer(t, n1, Options{})
			c, err := NewDialer(row.caller, Options{}).Dial(t.Context(), proto, row.target, s.Addr().String())
			if err == nil {
				c.Close()
				t.Errorf("%s, %s: accepted", row.name, proto)
			} else if !row.want(err) {
				t.Errorf("%s, %s: %v", row.name, proto, err)
			}
			if got := s.handedOn(t, 0); len(got) != 0 {
				t.Errorf("%s, %s: handed on a connection from %q", row.name, proto, got[0].Peer())
			}
		}
	}
}

// TestServerChecksOnItsOwn: a caller that checks nothing and says what it likes
// is refused by the server alone.
func TestServerChecksOnItsOwn(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	stranger, err := Init(t.TempDir(), "n2")
	if err != nil {
		t.Fatal(err)
	}
	if err := n1.SetGeneration(3); err != nil {
		t.Fatal(err)
	}
	sameCA := newMember(t, &Identity{cluster: strings.Repeat("0", 32), ca: n1.ca, generation: 3}, "n2")
	right := Hello{Cluster: n1.cluster, Generation: 3, Name: "n2", Version: Version, Oldest: VersionOldest}
	with := func(change func(*Hello)) Hello { h := right; change(&h); return h }
	authority := tls.Certificate{Certificate: [][]byte{n1.ca.cert.Raw}, PrivateKey: n1.ca.key}
	cert := n2.certificate()
	rows := []struct {
		name    string
		cert    *tls.Certificate
		hello   Hello
		refusal string // said in HELLO; "" means that TLS ended before
	}{
		{"no certificate", nil, right, ""},
		{"wrong CA", new(stranger.certificate()), right, ""},
		{"other cluster in the certificate", new(sameCA.certificate()), right, ""},
		{"the CA itself", &authority, right, ""},
		{"other name", &cert, with(func(h *Hello) { h.Name = "n1" }), "another node than expected"},
		{"other cluster", &cert, with(func(h *Hello) { h.Cluster = "x" }), "member of another cluster"},
		{"lower generation", &cert, with(func(h *Hello) { h.Generation = 2 }), `"n1" belongs to generation 3, the caller "n2" to 2`},
		{"higher generation", &cert, with(func(h *Hello) { h.Generation = 9 }), `"n1" belongs to generation 3, the caller "n2" to 9`},
		{"too old", &cert, with(func(h *Hello) { h.Version = 0 }), "upgrade one release at a time"},
		{"too new", &cert, with(func(h *Hello) { h.Version, h.Oldest = 9, 8 }), "upgrade one release at a time"},
		{"right", &cert, right, "-"},
	}
	for _, row := range rows {
		for _, proto := range memberProtos() {
			s := startServer(t, n1, Options{})
			answer, err := rawHello(s.Addr().String(), proto, row.cert, row.hello)
			want := 0
			if row.refusal == "-" && err == nil {
				want = 1
			}
			got := len(s.handedOn(t, want))
			switch {
			case row.refusal == "-":
				if err != nil || answer.Refusal != "" || got != 1 {
					t.Errorf("%s, %s: %v %+v, %d handed on", row.name, proto, err, answer, got)
				}
			case row.refusal == "" && err == nil, !strings.Contains(answer.Refusal, row.refusal), got != 0:
				t.Errorf("%s, %s: %v %+v, %d handed on", row.name, proto, err, answer, got)
			}
		}
	}
}

// rawHello connects without any check and says h.
func rawHello(address, proto string, cert *tls.Certificate, h Hello) (Hello, error) {
	config := &tls.Config{NextProtos: []string{proto}, InsecureSkipVerify: true}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		return Hello{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return Hello{}, err
	}
	if err := writeHello(c, h); err != nil {
		return Hello{}, err
	}
	return readHello(c)
}

func TestHandshakeNeedsTLS13AndALPN(t *testing.T) {
	n1 := newCluster(t)
	s := startServer(t, n1, Options{})
	cert := []tls.Certificate{newMember(t, n1, "n2").certificate()}
	for name, config := range map[string]*tls.Config{
		"TLS 1.2":     {MaxVersion: tls.VersionTLS12, NextProtos: []string{ProtoRaft}},
		"no ALPN":     {},
		"other ALPN":  {NextProtos: []string{"h2"}},
		"join + raft": {NextProtos: []string{ProtoJoin, ProtoRaft}}, // no way round the certificate
	} {
		config.InsecureSkipVerify = true
		if name != "join + raft" {
			config.Certificates = cert
		}
		c, err := tls.Dial("tcp", s.Addr().String(), config)
		if err == nil {
			err = readByte(c)
			c.Close()
		}
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s was accepted: %v", name, err)
		}
	}
	if got := s.handedOn(t, 0); len(got) != 0 {
		t.Errorf("%d connections were handed on", len(got))
	}
}

// readByte reads for at most a second, so that a test that should be refused
// and is not fails instead of hanging.
func readByte(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

func TestAdmit(t *testing.T) {
	n1 := newCluster(t)
	asked := map[slot.NodeName]string{}
	s := startServer(t, n1, Options{Admit: func(name slot.NodeName, key string) error {
		asked[name] = key
		if name == "n2" {
			return errors.New("n2 was removed by `cluster remove`")
		}
		return nil
	}})
	_, err := NewDialer(newMember(t, n1, "n2"), Options{}).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "removed") {
		t.Errorf("got %v", err)
	}
	n3 := newMember(t, n1, "n3")
	c, err := NewDialer(n3, Options{}).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if want := sha256.Sum256(n3.key.Public().(ed25519.PublicKey)); asked["n3"] != hex.EncodeToString(want[:]) || asked["n2"] == asked["n3"] {
		t.Errorf("asked about the keys %q", asked)
	}
}

func TestHigherGenerationIsTold(t *testing.T) {
	n1 := newCluster(t)
	n2 := newMember(t, n1, "n2")
	if err := n2.SetGeneration(17); err != nil {
		t.Fatal(err)
	}
	told := make(chan slot.Generation, 4)
	o := Options{HigherGeneration: func(e GenerationError) { told <- e.Theirs }}
	low := startServer(t, n1, o)
	if _, err := NewDialer(n2, o).Dial(t.Context(), ProtoRaft, "n1", low.Addr().String()); err == nil {
		t.Error("a higher generation was accepted")
	}
	if g := <-told; g != 17 {
		t.Errorf("the one dialled was told of generation %d", g)
	}
	high := startServer(t, n2, o)
	if _, err := NewDialer(n1, o).Dial(t.Context(), ProtoRaft, "n2", high.Addr().String()); err == nil {
		t.Error("a lower generation was accepted")
	}
	if g := <-told; g != 17 {
		t.Errorf("the dialler was told of generation %d", g)
	}
	low.Close()
	high.Close()
	if len(told) != 0 {
		t.Error("the one with the higher generation was told, too")
	}
}

// TestLowerGenerationIsToldWhatToDo: a member of a lower generation that dials hears
// what it is to do about it; connections of the lower one end with it.
func TestLowerGenerationIsToldWhatToDo(t *testing.T) {
	n1 := newCluster(t)
	n2, n3 := newMember(t, n1, "n2"), newMember(t, n1, "n3")
	s := startServer(t, n1, Options{TellBehind: func(name slot.NodeName, key string) string {
		if name == "n2" && key != "" {
			return "on a condition"
		}
		return ""
	}})
	before, err := NewDialer(n2, Options{}).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	there := <-s.queues[ProtoRaft].conns
	defer there.Close()
	if err := n1.SetGeneration(2); err != nil {
		t.Fatal(err)
	}
	if err := readByte(before); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection of the lower generation lives on: %v", err)
	}
	told := make(chan GenerationError, 1)
	o := Options{HigherGeneration: func(e GenerationError) { told <- e }}
	for id, word := range map[*Identity]string{n2: "on a condition", n3: ""} {
		if _, err := NewDialer(id, o).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String()); err == nil {
			t.Fatalf("%s was let in with the lower generation", id.Name())
		}
		if e := <-told; e.Theirs != 2 || e.Word != word {
			t.Errorf("%s was told %+v", id.Name(), e)
		}
	}
	if err := n2.SetGeneration(2); err != nil {
		t.Fatal(err)
	}
	c, err := NewDialer(n2, o).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	s.handedOn(t, 1)
}

// TestLaw11PeerCertificateDateIgnored: peers whose certificates are not valid
// yet, or no more, or never at the same time, still talk.
func TestLaw11PeerCertificateDateIgnored(t *testing.T) {
	const cluster = "0123456789abcdef0123456789abcdef"
	for _, years := range []int{-50, -11, 5, 100} {
		ca, err := newAuthority(cluster, time.Now().AddDate(years, 0, 0))
		if err != nil {
			t.Fatal(err)
		}
		n1 := newMember(t, &Identity{cluster: cluster, ca: ca, generation: 1}, "n1")
		n2 := newMember(t, n1, "n2")
		n2.cert = redated(t, ca, n2, time.Now().AddDate(-years, 0, 0))
		s := startServer(t, n1, Options{})
		c, err := NewDialer(n2, Options{}).Dial(t.Context(), ProtoRaft, "n1", s.Addr().String())
		if err != nil {
			t.Errorf("CA from year %+d, node from year %+d: %v", years, -years, err)
			continue
		}
		c.Close()
	}
}

// redated reissues a member's certificate with dates of its own.
func redated(t *testing.T, ca authority, id *Identity, from time.Time) *x509.Certificate {
	t.Helper()
	template := *id.cert
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(7), from, from.AddDate(1, 0, 0)
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.cert, id.key.Public().(ed25519.PublicKey), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestDialEndsWithContext(t *testing.T) {
	n1 := newCluster(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := NewDialer(n1, Options{}).Dial(ctx, ProtoRaft, "n2", silent.Addr().String())
		ended <- err
	}()
	c, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDialRefusesProtocols(t *testing.T) {
	for _, proto := range []string{ProtoJoin, "", "h2"} {
		if _, err := NewDialer(newCluster(t), Options{}).Dial(t.Context(), proto, "", "127.0.0.1:1"); err == nil {
			t.Errorf("dialled %q", proto)
		}
	}
}
