package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"mailnode/storage/slot"
)

// Bounds of a request; how long its answer may take is in patience.go.
const (
	bodyMax     = 64 << 10 // bytes
	readTimeout = 10 * time.Second
	idleTimeout = time.Minute
)

// Server answers operators on a unix socket.
type Server struct {
	backend Backend
	node    slot.NodeName
	version string
	log     *slog.Logger
	http    *http.Server
}

// NewServer returns a server that does not listen yet.
func NewServer(b Backend, node slot.NodeName, version string, log *slog.Logger) *Server {
	s := &Server{backend: b, node: node, version: version, log: log}
	s.http = &http.Server{
		Handler:           s.guard(s.routes()),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      confirmTimeout + answerGrace + readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       rememberCaller,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s
}

// Listen makes the socket, with mode 0600. A socket that a dead process left
// behind is replaced; one that is answered belongs to a running node.
func Listen(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %q: another mailnode is running there", path)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %q: there is a file of that name, which is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replace socket %q: %w", path, err)
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	// Until here the umask decided; guard turns strangers away all the same.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("protect socket %q: %w", path, err)
	}
	return ln, nil
}

// Serve answers until Close or Shutdown, then returns nil.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operators on %q: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown waits for requests under way, as long as ctx lives.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close ends all connections at once.
func (s *Server) Close() error { return s.http.Close() }

type callerKey struct{}

// rememberCaller asks the kernel who is at the other end.
func rememberCaller(ctx context.Context, c net.Conn) context.Context {
	who, err := callerOf(c)
	if err != nil {
		who = caller{} // not allowed: guard says so
	}
	return context.WithValue(ctx, callerKey{}, who)
}

// caller is who sent a request. The zero value may do nothing.
type caller struct {
	known bool
	uid   uint32
	name  string // user name, or "uid 1000"
}

func (c caller) allowed() bool { return c.known && (c.uid == 0 || int(c.uid) == os.Geteuid()) }

func callerIn(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// guard lets only root and the node's own user in, and bounds the body.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := callerIn(r.Context()); !c.allowed() {
			s.refuse(w, &Error{Text: fmt.Sprintf("%s may not administrate this node: only root and the node's own user may", c.name), Exit: ExitRefused, status: http.StatusForbidden})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, bodyMax)
		next.ServeHTTP(w, r)
	})
}

// read handles a question: its context ends with the client's patience.
func read[T any](s *Server, ask func(ctx context.Context, r *http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), questionTimeout)
		defer cancel()
		answer, err := bounded(ctx, s.log, s.lateAnswer(), func() (T, error) { return ask(ctx, r) })
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, answer)
	}
}

// change handles an order: it goes on when the client hangs up (law 12), and is
// logged with who gave it.
func change[Q, T any](s *Server, what string, limit time.Duration, do func(ctx context.Context, q Q, by string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := decode(r.Body, &q); err != nil {
			s.refuse(w, err)
			return
		}
		by := callerIn(r.Context()).name
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), limit)
		defer cancel()
		answer, err := bounded(ctx, s.log, s.lateOrder(what, limit), func() (T, error) { return do(ctx, q, by) })
		s.ordered(r.URL.Path, what, by, q, answer, err)
		if err != nil {
			s.log.Warn("operator's order refused", slog.String("order", what), slog.String("by", by), slog.Any("error", err))
			s.refuse(w, err)
			return
		}
		s.log.Info("operator's order done", slog.String("order", what), slog.String("by", by))
		s.answer(w, answer)
	}
}

// decode reads one JSON value and nothing after it; a field that is not known
// was meant to do something that this release does not do. JSON is UTF-8 (RFC 8259,
// section 8.1): the decoder would put U+FFFD in the place of anything else, and of an
// escaped half of a character, which in a password nobody would ever type.
func decode(body io.Reader, into any) error {
	text, err := io.ReadAll(body)
	if err != nil {
		return &Error{Text: fmt.Sprintf("read request: %v", err), Exit: ExitUsage}
	}
	if !utf8.Valid(text) {
		return &Error{Text: "read request: it is not UTF-8", Exit: ExitUsage}
	}
	if halfEscaped(text) {
		return &Error{Text: `read request: it escapes half of a character (such as \udce4): it is not Unicode`, Exit: ExitUsage}
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &Error{Text: fmt.Sprintf("read request: %v", err), Exit: ExitUsage}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &Error{Text: "read request: more than one JSON value", Exit: ExitUsage}
	}
	return nil
}

// halfEscaped reports whether JSON escapes one half of a surrogate pair without the
// other (RFC 8259, section 8.2): so programs write bytes that they could not decode.
func halfEscaped(text []byte) bool {
	first := false // the first half of a pair stands just before
	for i := 0; i < len(text); i++ {
		unit := uint64(0)
		if text[i] == '\\' {
			if i++; i+4 < len(text) && text[i] == 'u' {
				unit, _ = strconv.ParseUint(string(text[i+1:i+5]), 16, 16) // what is no number is the decoder's to refuse
				i += 4
			}
		}
		if second := unit >= 0xDC00 && unit <= 0xDFFF; second != first {
			return true
		}
		first = unit >= 0xD800 && unit <= 0xDBFF
	}
	return first
}

func (s *Server) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("operator hung up", slog.Any("error", err))
	}
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	status, body := reply(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.log.Debug("operator hung up", slog.Any("error", err))
	}
}
