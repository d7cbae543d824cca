package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"mailnode/storage/slot"
)

// The protocols of the peer port, as ALPN names them.
const (
	ProtoRaft   = "mailnode-raft/1"
	ProtoGRPC   = "mailnode-grpc/1"
	ProtoClient = "mailnode-client/1" // a client connection passed on to its master
	ProtoJoin   = "mailnode-join/1"   // the only one without a client certificate
)

func protos() []string { return []string{ProtoRaft, ProtoGRPC, ProtoClient, ProtoJoin} }

// memberProtos are those that need a member's certificate on both sides.
func memberProtos() []string { return []string{ProtoRaft, ProtoGRPC, ProtoClient} }

// Deadlines of a connection that is being made, on monotonic clocks (law 11).
const (
	handshakeTimeout = 10 * time.Second
	helloTimeout     = 5 * time.Second
)

// handshakesMax is Options.HandshakesMax when it is 0.
const handshakesMax = 256

// Options are shared by Listen, NewDialer and Join; the zero value is usable.
type Options struct {
	Log      *slog.Logger // nil logs nothing
	Features []string     // announced in HELLO
	// Open makes the listening socket; nil is TCP.
	Open func(ctx context.Context, address string) (net.Listener, error)
	// Connect makes the raw connection; nil is TCP.
	Connect func(ctx context.Context, address string) (net.Conn, error)
	// Admit is asked about every member at the other end, whoever dialled, after its
	// certificate and HELLO were found good: a removed node still has its certificate,
	// and so has one whose name was given to another. The key is as JoinRequest has it.
	// Its error is told to whoever dialled; see ErrGone. nil admits every member.
	Admit func(name slot.NodeName, key string) error
	// OnGone is told when a member says that this node is none any more, and why.
	OnGone func(by slot.NodeName, reason string)
	// OnAccepted is called by Join before it writes anything of the answer, and again
	// with the next try after a crash. nil does nothing.
	OnAccepted func(JoinAccepted) error
	// HigherGeneration is told when a member of this cluster belongs to a higher
	// generation. The connection is refused all the same.
	HigherGeneration func(e GenerationError)
	// TellBehind is asked for Hello.Word to a member of a lower generation that dials.
	// nil says nothing.
	TellBehind func(name slot.NodeName, key string) string
	// HandshakesMax bounds the handshakes on a Port that have not said for which
	// protocol they are, and of each protocol those that are unfinished; 0 means
	// handshakesMax. One more ends the oldest, and half as many of one address its own oldest.
	HandshakesMax int
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Open == nil {
		o.Open = func(ctx context.Context, address string) (net.Listener, error) {
			var lc net.ListenConfig
			return lc.Listen(ctx, "tcp", address)
		}
	}
	if o.Connect == nil {
		o.Connect = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	if o.HandshakesMax <= 0 {
		o.HandshakesMax = handshakesMax
	}
	return o
}

// learn passes on to whoever wants to know what a refusal says about this node.
func (o Options) learn(err error) {
	var r *RefusedError
	if errors.As(err, &r) && r.Gone && o.OnGone != nil {
		o.OnGone(r.Peer, r.Reason)
	}
	var g *GenerationError
	if errors.As(err, &g) && g.Theirs > g.Own && o.HigherGeneration != nil {
		o.HigherGeneration(*g)
	}
}

// Conn is a connection whose other side is known.
type Conn struct {
	*tls.Conn
	hello Hello
	id    *Identity // nil on ProtoJoin
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// forget takes the connection off the list of those that may have to be cut.
func (c *Conn) forget() {
	if c.id != nil {
		c.id.forget(c)
	}
}

// Key returns the hash of the other end's key, as JoinRequest has it; not on ProtoJoin.
func (c *Conn) Key() string { return keyOf(c.Conn) }

// keyOf is the hash of the key that the other end has proved to hold.
func keyOf(c *tls.Conn) string { return keyHash(c.ConnectionState().PeerCertificates[0].PublicKey) }

// Peer returns the name of the node at the other end, "" on ProtoJoin.
func (c *Conn) Peer() slot.NodeName { return c.hello.Name }

// Hello returns what the other side said of itself, zero on ProtoJoin.
func (c *Conn) Hello() Hello { return c.hello }

// Proto returns the protocol that was chosen.
func (c *Conn) Proto() string { return c.ConnectionState().NegotiatedProtocol }

// memberTLS is for connections between members, in either direction. Go's own
// verification is off because it looks at dates (law 11) and at host names; ours
// is in VerifyConnection, which is called on every handshake: there are no
// session tickets that could go round it.
func (id *Identity) memberTLS(want slot.NodeName, alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.certificate()},
		NextProtos:             alpn,
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			name, err := id.certified(cs)
			if err != nil {
				return err
			}
			if want != "" && name != want {
				return fmt.Errorf("%w: %q answered, want %q", ErrWrongName, name, want)
			}
			if cs.NegotiatedProtocol == "" {
				return errors.New("no protocol was agreed upon")
			}
			return nil
		},
	}
}

// joinTLS shows this node to a joiner, which has no certificate yet.
func (id *Identity) joinTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.certificate()},
		NextProtos:             []string{ProtoJoin},
		SessionTicketsDisabled: true,
	}
}

// certified returns the node for which the other side's certificate speaks.
func (id *Identity) certified(cs tls.ConnectionState) (slot.NodeName, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", fmt.Errorf("%w: it showed no certificate", ErrStranger)
	}
	return checkMember(cs.PeerCertificates[0], id.ca.cert, id.cluster)
}

// pinned checks the chain of a node that a joiner reached: it must end in the
// CA of the token and speak for a node of the token's cluster.
func pinned(certs []*x509.Certificate, cluster string, ca Fingerprint) error {
	if len(certs) != 2 || fingerprint(certs[1]) != ca {
		return fmt.Errorf("%w: the node that answered is not of the cluster that made the token", ErrStranger)
	}
	if err := checkAuthority(certs[1]); err != nil {
		return err
	}
	_, err := checkMember(certs[0], certs[1], cluster)
	return err
}

// greetAsDialer says HELLO and hears the other's.
func (id *Identity) greetAsDialer(c *tls.Conn, features []string) (Hello, error) {
	certified, err := id.certified(c.ConnectionState())
	if err != nil {
		return Hello{}, err
	}
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return Hello{}, err
	}
	own := id.hello(features)
	written := make(chan error, 1)
	// TLS 1.3 tells a refused client of it only after the handshake: the alert
	// may be under way while HELLO is written.
	go func() { written <- writeHello(c, own) }()
	theirs, err := readHello(c)
	if err != nil {
		c.NetConn().Close() // frees the writer
		<-written
		return Hello{}, err
	}
	if err := <-written; err != nil {
		return Hello{}, err
	}
	if err := judge(own, theirs, certified); err != nil {
		return Hello{}, err
	}
	if theirs.Refusal != "" {
		return Hello{}, &RefusedError{Peer: certified, Reason: theirs.Refusal, Gone: theirs.Gone}
	}
	return theirs, c.SetDeadline(time.Time{})
}

// greetAsDialled hears HELLO, decides, and answers; a refusal is said before
// the connection is closed, so that the other side can log why.
func (id *Identity) greetAsDialled(c *tls.Conn, o Options) (Hello, error) {
	certified, err := id.certified(c.ConnectionState())
	if err != nil {
		return Hello{}, err
	}
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return Hello{}, err
	}
	theirs, err := readHello(c)
	if err != nil {
		return Hello{}, err
	}
	own := id.hello(o.Features)
	verdict := judge(own, theirs, certified)
	key := keyOf(c)
	var behind *GenerationError
	switch {
	case verdict == nil && o.Admit != nil:
		verdict = o.Admit(certified, key)
	case errors.As(verdict, &behind) && behind.Theirs < behind.Own && o.TellBehind != nil:
		own.Word = o.TellBehind(certified, key)
	}
	if verdict != nil {
		own.Refusal, own.Gone = refusalFor(own, verdict), errors.Is(verdict, ErrGone)
	}
	if err := writeHello(c, own); err != nil {
		return Hello{}, errors.Join(verdict, err)
	}
	if verdict != nil {
		return Hello{}, verdict
	}
	return theirs, c.SetDeadline(time.Time{})
}
