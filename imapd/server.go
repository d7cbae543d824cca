package imapd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"mailnode/imapd/wire"
	"mailnode/storage"
	"mailnode/storage/fair"
)

const (
	readBufferBytes   = 4 << 10
	frameBufferBytes  = 1 << 10
	spliceBufferBytes = 16 << 10 // a whole TLS record
	acceptBackoffMin  = 5 * time.Millisecond
	acceptBackoffMax  = time.Second

	// handshakesMax are the TLS handshakes under way, half of them of one client
	// (fair.Network); the others wait, with what they have sent. Who ends a handshake for
	// another one has done its work in vain, and when everybody reconnects at once each
	// would end another's, and nobody would get in.
	handshakesMax = 256
	// helloShare is the part of all connections, and of one client's, that may say
	// nothing yet; one more ends the oldest, which is the likeliest to stay silent.
	helloShare = 2
)

// ListenerOptions says how a listener's connections begin.
type ListenerOptions struct {
	ImplicitTLS bool // TLS from the first byte (RFC 8314, section 3.2)
	PlainLogin  bool // LOGIN without TLS is allowed: loopback only
}

// Server serves IMAP on any number of listeners.
type Server struct {
	cfg    Config
	ctx    context.Context // ended when Shutdown gives up waiting
	cancel context.CancelCauseFunc

	shared

	entrance
	down   atomic.Bool
	serial atomic.Uint64
	wg     sync.WaitGroup // sessions and store watchers

	mu        sync.Mutex // guards what follows
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	perIP     map[string]int // by fair.Network
	perUser   map[userKey]int
	stores    map[storage.Store]*storeWatch
}

// entrance is what clients wait at before they have TLS.
type entrance struct {
	silent     *fair.Pending // they have not begun their handshake
	handshakes *fair.Turns   // they have
}

// shared is what all sessions use in turn.
type shared struct {
	readPool, framePool, writePool, splicePool *wire.Buffers
	turns                                      turns // of SEARCHes and FETCHes
}

type userKey struct {
	store   storage.Store
	account storage.AccountID
}

// storeWatch is one store's sessions, and what the goroutine waits for that
// ends them.
type storeWatch struct {
	sessions map[*session]struct{}
	stop     chan struct{}
	closed   <-chan struct{} // the sessions of some accounts must end
	unwatch  func()
}

// New makes a Server.
func New(cfg Config) *Server {
	cfg.setDefaults()
	s := &Server{
		cfg: cfg,
		shared: shared{
			readPool:   wire.NewBuffers(readBufferBytes),
			framePool:  wire.NewBuffers(frameBufferBytes),
			writePool:  wire.NewBuffers(wire.WriterBufferBytes),
			splicePool: wire.NewBuffers(spliceBufferBytes),
			turns:      newTurns(),
		},
		entrance: entrance{silent: fair.NewPending(max(1, cfg.Limits.ConnectionsMax/helloShare), max(1, cfg.Limits.PerIPMax/helloShare)),
			handshakes: fair.NewTurns(handshakesMax, cfg.Limits.ConnectionsMax)},
		listeners: map[net.Listener]struct{}{},
		sessions:  map[*session]struct{}{},
		perIP:     map[string]int{},
		perUser:   map[userKey]int{},
		stores:    map[storage.Store]*storeWatch{},
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// Serve accepts connections until the listener fails or Shutdown is called
// (ErrShutdown). It closes ln.
func (s *Server) Serve(ln net.Listener, o ListenerOptions) error {
	defer ln.Close()
	if o.ImplicitTLS && s.cfg.TLS == nil {
		return fmt.Errorf("serve imap on %q: implicit TLS without a certificate", ln.Addr())
	}
	s.mu.Lock()
	if s.down.Load() {
		s.mu.Unlock()
		return ErrShutdown
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	backoff := acceptBackoffMin
	for {
		nc, err := ln.Accept()
		switch {
		case s.down.Load():
			if err == nil {
				nc.Close()
			}
			return ErrShutdown
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept imap connection: %w", err)
		case err != nil: // out of descriptors passes; a dead listener is closed
			s.cfg.Logger.Warn("accept imap connection", "err", err)
			select {
			case <-time.After(backoff):
			case <-s.ctx.Done():
				return ErrShutdown
			}
			backoff = min(2*backoff, acceptBackoffMax)
		default:
			backoff = acceptBackoffMin
			s.start(nc, o)
		}
	}
}

func (s *Server) start(nc net.Conn, o ListenerOptions) {
	c := newSession(s, nc, clientIP(nc.RemoteAddr()))
	c.implicitTLS, c.plainLogin = o.ImplicitTLS, o.PlainLogin
	if why := s.register(c); why != nil {
		s.refuse(c, why)
		return
	}
	go c.run(c.serveClient)
}

// refuse closes a connection before it has cost anything: without TLS with a word
// why, else at once.
func (s *Server) refuse(c *session, why *refusal) {
	defer c.close()
	s.cfg.Metrics.Refused(why.reason)
	s.cfg.Logger.Warn("imap connection refused", "client", c.ip, "reason", why.reason)
	if !c.implicitTLS {
		// One line fits into a new socket's buffer; the deadline is for a client that
		// shrank it, because the accept loop waits here.
		c.conn.SetWriteDeadline(time.Now().Add(refuseWithin))
		io.WriteString(c.conn, "* BYE [UNAVAILABLE] "+why.text+"\r\n")
	}
}

const refuseWithin = 100 * time.Millisecond

// ServePeer serves a connection that another node passed on (passon.go).
func (s *Server) ServePeer(nc net.Conn) {
	c := newSession(s, nc, "")
	if why := s.register(c); why != nil {
		s.cfg.Metrics.Refused(why.reason)
		c.close() // the front node says that the user's master is not available
		return
	}
	go c.run(c.servePeer)
}

// refusal is why a connection is not let in: for the metrics, and for the client.
type refusal struct{ reason, text string }

// register counts a session in, or returns why not; nil: it is in.
func (s *Server) register(c *session) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.counted = fair.NetworkOf(c.ip)
	switch {
	case s.down.Load():
		return &refusal{"down", "server is shutting down"}
	case len(s.sessions) >= s.cfg.Limits.ConnectionsMax:
		return &refusal{"connections", "too many connections"}
	case c.counted != "" && s.perIP[c.counted] >= s.cfg.Limits.PerIPMax:
		return &refusal{"address", "too many connections from your address"}
	}
	if c.counted != "" {
		s.perIP[c.counted]++
	}
	s.sessions[c] = struct{}{}
	s.wg.Add(1)
	s.cfg.Metrics.Connection(1)
	return nil
}

func (s *Server) unregister(c *session) {
	s.mu.Lock()
	delete(s.sessions, c)
	if c.counted != "" {
		if s.perIP[c.counted]--; s.perIP[c.counted] <= 0 {
			delete(s.perIP, c.counted)
		}
	}
	if c.store != nil {
		s.detachLocked(c)
	}
	s.mu.Unlock()
	s.cfg.Metrics.Connection(-1)
	s.wg.Done()
}

// attach counts a session in as one of its user's, and sees to it that the end
// of its store ends it.
func (s *Server) attach(c *session, g Grant) error {
	store, account := g.Store, g.Account
	s.mu.Lock()
	defer s.mu.Unlock()
	key := userKey{store, account}
	if s.perUser[key] >= s.cfg.Limits.PerUserMax {
		return storage.Errorf(storage.ErrLimit, "log in: too many connections of this user")
	}
	s.perUser[key]++
	c.store, c.account, c.proved = store, account, g.Credential
	w := s.stores[store]
	if w == nil {
		w = &storeWatch{sessions: map[*session]struct{}{}, stop: make(chan struct{})}
		w.closed, w.unwatch = store.Watch(storage.Ref{})
		s.stores[store] = w
		s.wg.Add(1)
		go s.watchStore(store, w)
	}
	w.sessions[c] = struct{}{}
	select {
	case <-store.Done(): // watchStore may have been and gone
		c.kick()
	default:
	}
	return nil
}

func (s *Server) detachLocked(c *session) {
	key := userKey{c.store, c.account}
	if s.perUser[key]--; s.perUser[key] <= 0 {
		delete(s.perUser, key)
	}
	w := s.stores[c.store]
	delete(w.sessions, c)
	if len(w.sessions) == 0 {
		delete(s.stores, c.store)
		close(w.stop)
	}
}

// watchStore waits once per store for what sessions of it must hear although
// their clients do nothing.
func (s *Server) watchStore(store storage.Store, w *storeWatch) {
	defer s.wg.Done()
	defer w.unwatch()
	for waits := true; waits; {
		select {
		case <-w.stop:
			return
		case <-w.closed:
			s.endClosed(store, w)
		case <-store.Done():
			waits = false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range w.sessions {
		c.kick()
	}
}

// endClosed ends the sessions that their accounts may not have any more.
func (s *Server) endClosed(store storage.Store, w *storeWatch) {
	type opened struct {
		c      *session
		proved storage.Credential
	}
	open := map[storage.AccountID][]opened{}
	s.mu.Lock()
	for c := range w.sessions {
		open[c.account] = append(open[c.account], opened{c, c.proved})
	}
	s.mu.Unlock()
	for id, sessions := range open {
		a, err := store.Account(s.ctx, id)
		for _, o := range sessions {
			if why := closedTo(a, err, o.proved); why != nil {
				o.c.closeAccount(why)
			}
		}
	}
}

// closedTo returns why a session that proved a Credential of an account must end; nil:
// it need not. Any other trouble than these shows where the session meets it.
func closedTo(a storage.Account, err error, proved storage.Credential) *byeError {
	switch {
	case errors.Is(err, storage.ErrNotFound), err == nil && a.Disabled:
		return &byeError{"CONTACTADMIN", "this account is closed"}
	case err == nil && a.Credential != proved:
		return &byeError{"EXPIRED", "the password was changed, log in with the new one"} // RFC 5530, section 3
	}
	return nil
}

// Shutdown stops accepting, says BYE to sessions between responses, and waits
// for them; when ctx ends first it closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.down.Store(true)
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.sessions {
		c.kick()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	defer s.cancel(errKicked)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cancel(errKicked)
	s.mu.Lock()
	for c := range s.sessions {
		c.conn.Close()
	}
	s.mu.Unlock()
	<-done
	return fmt.Errorf("shut imap down: %w", ctx.Err())
}

// errGoOn says that the session goes on in a fresh goroutine, see goOn.
// Stacks grow in handshakes and commands and hardly ever shrink below 8 KiB under
// a TLS read; a fresh one that only waits has 4 KiB.
var errGoOn = errors.New("go on in a fresh goroutine")

// run serves a session until it ends, or goes on in a fresh goroutine.
func (c *session) run(serve func() error) {
	err := c.guarded(serve)
	if errors.Is(err, errGoOn) {
		go c.run(c.goOn)
		return
	}
	if err != nil {
		c.log().Debug("imap session ended", "err", err)
	}
	c.close()
	c.srv.unregister(c)
}

// guarded ends this session only when it panics (law 9).
func (c *session) guarded(serve func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log().Error("imap session panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errPanicked
		}
	}()
	return serve()
}

var errPanicked = errors.New("serve session: panicked")

func clientIP(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.IP.String()
	}
	return ""
}
