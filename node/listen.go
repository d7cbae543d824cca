package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"mailnode/imapd"
	"mailnode/lmtpd"
	"mailnode/node/config"
	"mailnode/node/monitor"
	"mailnode/node/peer"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// foundWithin bounds the founding of a cluster at its first start.
const foundWithin = 30 * time.Second

// start starts everything that open opened; frontends come last.
func (n *Node) start(ctx context.Context) error {
	n.serveGRPC()
	n.wg.Go(func() {
		n.logErr("serve joiners", peer.ServeJoin(ctx, n.port.Listener(peer.ProtoJoin), n.id, n.authorize, n.log))
	})
	fctx, cancel := context.WithTimeout(ctx, foundWithin)
	err := n.found(fctx)
	cancel()
	if err != nil {
		return err
	}
	n.wg.Go(func() { every(ctx, tickEvery, n.tick) })
	n.wg.Go(func() { n.reports(ctx) })
	n.wg.Go(func() { n.fence(ctx) })
	n.wg.Go(func() { n.lead(ctx) })
	n.wg.Go(func() { n.votes(ctx) })
	n.wg.Go(func() { n.leaves(ctx) })
	n.wg.Go(func() { n.watch(ctx) })
	n.wg.Go(func() { n.declare(ctx) })
	n.wg.Go(func() { n.asides.run(ctx) })
	n.wg.Go(func() { n.happenings.run(ctx) })
	n.wg.Go(func() { n.happenings.write(ctx) })
	for _, dir := range n.volumes.folders() {
		n.wg.Go(func() { n.watchSpace(ctx, dir) })
	}
	n.wg.Go(func() { n.copies.run(ctx) })
	n.wg.Go(func() { n.scrubs(ctx) })
	n.wg.Go(func() { n.comparesAgain(ctx) })
	n.wg.Go(func() { n.upkeep(ctx) })
	if err := n.serveAdmin(ctx); err != nil {
		return err
	}
	if err := n.serveMetrics(ctx); err != nil {
		return err
	}
	n.wg.Go(func() { n.hooks(ctx) })
	if n.cfg.Node.Witness {
		return nil
	}
	return n.serveClients()
}

// serveClients opens IMAP and LMTP, and takes connections that other nodes pass on.
func (n *Node) serveClients() error {
	certs, err := n.clientTLS()
	if err != nil {
		return err
	}
	c := n.cfg
	n.imap = imapd.New(imapd.Config{Hostname: c.Node.Hostname, TLS: certs, Logger: n.log.With("part", "imap"), Spool: n.spool, Login: n,
		Limits:  imapd.Limits{MessageBytesMax: c.MessageMaxBytes, ConnectionsMax: c.IMAP.ConnectionsMax, PerUserMax: c.IMAP.ConnectionsPerUserMax, PerIPMax: c.IMAP.ConnectionsPerIPMax},
		Metrics: imapMetrics{n.metrics}})
	n.lmtp = lmtpd.New(lmtpd.Config{Hostname: c.Node.Hostname, Mail: n, Spool: n.spool, MessageBytesMax: c.MessageMaxBytes,
		ConnectionsMax: c.LMTP.ConnectionsMax, PerIPMax: c.LMTP.PerIPMax, Postmaster: c.LMTP.Postmaster, Allow: c.LMTP.Allow, TLS: certs, Logger: n.log.With("part", "lmtp"), Now: n.clock.Wall,
		Metrics: lmtpd.Metrics{
			Connections: func(delta int) { n.metrics.Connection(monitor.LMTP, delta) },
			Refused:     func(reason string) { n.metrics.Refused(monitor.LMTP, reason) },
			Replied:     func(code int, _ time.Duration) { n.metrics.Delivery(deliveryResult(code)) },
		}})
	n.wg.Go(func() { n.servePassedOn(n.port.Listener(peer.ProtoClient)) })
	for _, l := range []struct {
		setting, network, address string
		serve                     func(net.Listener) error
	}{
		{"imap", "tcp", c.IMAP.Plain, func(ln net.Listener) error {
			return n.imap.Serve(ln, imapd.ListenerOptions{PlainLogin: config.IsLoopback(c.IMAP.Plain)})
		}},
		{"imaps", "tcp", c.IMAP.TLS, func(ln net.Listener) error { return n.imap.Serve(ln, imapd.ListenerOptions{ImplicitTLS: true}) }},
		{"lmtp", "tcp", c.LMTP.TCP, n.lmtp.Serve},
		{"lmtp_socket", "unix", c.LMTP.Socket, n.lmtp.Serve},
	} {
		if l.address == "" {
			continue
		}
		ln, err := listen(l.network, l.address)
		if err != nil {
			return fmt.Errorf("setting `%s`: %w", l.setting, err)
		}
		n.wg.Go(func() {
			if err := l.serve(ln); err != nil && !errors.Is(err, imapd.ErrShutdown) && !n.stopping.Load() {
				n.log.Error("listener ended", "address", l.address, "err", err)
			}
		})
	}
	return nil
}

// listen opens a socket; a unix one that a dead process left is replaced.
func listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		if c, err := net.Dial("unix", address); err == nil {
			c.Close()
			return nil, fmt.Errorf("listen on %q: another process serves it", address)
		}
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("listen on %q: %w", address, err)
		}
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if network == "unix" {
		// The MTA runs as another user; the folder says who may come near.
		if err := os.Chmod(address, 0o666); err != nil {
			ln.Close()
			return nil, fmt.Errorf("listen on %q: %w", address, err)
		}
	}
	return ln, nil
}

func (n *Node) servePassedOn(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		n.imap.ServePeer(c)
	}
}

func deliveryResult(code int) monitor.Result {
	switch code / 100 {
	case 2:
		return monitor.Delivered
	case 4:
		return monitor.Deferred
	}
	return monitor.Rejected
}

// imapMetrics hands the IMAP server's events to the metrics.
type imapMetrics struct{ m *monitor.Metrics }

func (x imapMetrics) Command(verb, status string, _ time.Duration) { x.m.Command(verb, status) }
func (x imapMetrics) Login(ok bool)                                { x.m.Login(ok) }
func (x imapMetrics) Connection(delta int)                         { x.m.Connection(monitor.IMAP, delta) }
func (x imapMetrics) Refused(reason string)                        { x.m.Refused(monitor.IMAP, reason) }

// sources is what the metrics ask at each scrape.
func (n *Node) sources() monitor.Sources {
	return monitor.Sources{Conditions: n.conditions, Passwords: func() (uint64, int) { return n.passwords.Load() }, Slots: func() []monitor.SlotState {
		var out []monitor.SlotState
		for _, k := range n.copies.all() {
			r := k.report()
			st := monitor.SlotState{Slot: k.id, Role: string(r.Role), State: stateOf(r), LagSec: float64(r.LagMs) / 1000, LagUnknown: !r.LagKnown}
			if feed := n.copies.Feed(k.id); feed != nil {
				best, ok := bestLag(feed)
				st.LagSec, st.LagUnknown = best.Seconds(), !ok
			}
			out = append(out, st)
		}
		return out
	}, RaftState: func() string {
		switch {
		case n.raft.Err() != nil:
			return "Shutdown"
		case n.raft.IsLeader():
			return "Leader"
		}
		return "Follower"
	}}
}

// serveMetrics serves /metrics and /healthz.
func (n *Node) serveMetrics(ctx context.Context) error {
	if n.cfg.Node.Metrics == "" {
		return nil
	}
	ln, err := listen("tcp", n.cfg.Node.Metrics)
	if err != nil {
		return fmt.Errorf("setting `metrics`: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", n.metrics.Handler())
	mux.HandleFunc("/healthz", n.healthz)
	n.serveHTTP(ctx, ln, mux)
	return nil
}

func (n *Node) serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	n.wg.Go(func() {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			n.logErr("serve http", err)
		}
	})
	context.AfterFunc(ctx, func() { s.Close() })
}

// clientTLS loads the certificate for clients, or makes one that signs itself.
func (n *Node) clientTLS() (*tls.Config, error) {
	cert, key := n.cfg.Node.TLSCert, n.cfg.Node.TLSKey
	if cert == "" {
		n.conditions.Set(monitor.TLSSelfSigned, "", "")
		cert, key = filepath.Join(n.cfg.Node.Data, "self-signed.pem"), filepath.Join(n.cfg.Node.Data, "self-signed.key")
		if err := selfSigned(cert, key, n.cfg.Node.Hostname, n.cfg.Node.Name, n.clock.Wall()); err != nil {
			return nil, err
		}
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("load certificate %q: %w", cert, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}, nil
}

const selfSignedFor = 10 * 365 * 24 * time.Hour

func selfSigned(certPath, keyPath, hostname string, name slot.NodeName, now time.Time) error {
	if _, err := os.Stat(certPath); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: hostname, OrganizationalUnit: []string{string(name)}},
		DNSNames: []string{hostname, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(selfSignedFor), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := disk.ReplaceFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})); err != nil {
		return err
	}
	return disk.ReplaceFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
