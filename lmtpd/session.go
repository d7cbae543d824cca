package lmtpd

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"mailnode/storage"
	"mailnode/storage/fair"
	"mailnode/storage/slot"
)

// chunkBytes is how much of a message goes to the spool at a time.
const chunkBytes = 64 << 10

// session is one client's conversation, as go-smtp drives it: one call at a time.
type session struct {
	server *Server
	conn   *conn
	lhlo   string // the name that the client gave
	open   bool   // between MAIL and the last reply, or RSET
	from   string // "" is the null reverse-path
	size   int64  // as MAIL announced it; 0: it did not
	utf8   bool
	rcpts  []accepted
	// spool is of the message that MAIL has announced. Who swaps nil for it closes
	// it: Shutdown ends a session from another goroutine, also while it receives.
	spool atomic.Pointer[storage.Spool]
}

// accepted is one RCPT that was answered 250.
type accepted struct {
	said string // as go-smtp knows it
	to   Recipient
}

var _ smtp.LMTPSession = (*session)(nil)

func (s *Server) newSession(c *smtp.Conn) (smtp.Session, error) {
	nc, ok := c.Conn().(*conn)
	if !ok {
		panic(fmt.Sprintf("lmtpd: go-smtp serves a %T", c.Conn()))
	}
	return &session{server: s, conn: nc, lhlo: c.Hostname()}, nil
}

// Mail begins a transaction. Its arguments are those of conn.envelope.
func (s *session) Mail(string, *smtp.MailOptions) error {
	if s.open {
		// go-smtp would keep the recipients and change the sender (RFC 5321, section 4.1.4).
		return nestedMail()
	}
	e := &s.conn.envelope
	if e.err != nil {
		return e.err
	}
	if err := e.tooBig(s.server.cfg.MessageBytesMax); err != nil {
		return err
	}
	spool, err := s.server.cfg.Spool.Announce(s.owner(), e.size)
	if err != nil {
		s.server.cfg.Logger.Warn("LMTP message put off", "client", clientName(s.conn.RemoteAddr()), "error", err)
		return reply(storage.Errorf(storage.ErrDiskFull, "%w", err))
	}
	s.spool.Store(spool)
	s.open, s.from, s.size, s.utf8 = true, e.path, e.size, e.utf8
	s.conn.transaction(true)
	return nil
}

// frontBytesMax is what one client's messages may take on their way in: an MTA has
// many, and must not keep users from appending theirs.
const frontBytesMax = storage.SpoolBytesMax / 2

// owner is for whom a message counts until it is delivered: its client's address,
// whatever the number of its connections.
func (s *session) owner() storage.SpoolOwner {
	name := "LMTP client"
	if client := fair.NetworkOf(s.conn.RemoteAddr().String()); client != "" {
		name += " " + client
	}
	return storage.SpoolOwner{Name: name, BytesMax: frontBytesMax}
}

// drop ends what MAIL announced; nil: there is nothing.
func (s *session) drop(spool *storage.Spool) {
	if spool == nil {
		return
	}
	if err := spool.Close(); err != nil {
		s.server.cfg.Logger.Warn("LMTP spool left behind", "error", err)
	}
}

// Rcpt looks up the recipient of conn.envelope. said is how go-smtp knows it.
func (s *session) Rcpt(said string, _ *smtp.RcptOptions) error {
	e := &s.conn.envelope
	if e.err != nil {
		return e.err
	}
	a := e.to
	began := time.Now()
	r, err := s.resolve(a)
	answer := reply(err)
	s.server.cfg.Metrics.Resolved(answer.Code, time.Since(began))
	if err != nil {
		if ourTrouble(answer) {
			s.server.cfg.Logger.Warn("LMTP recipient deferred", "recipient", string(a), "error", err)
		}
		return answer
	}
	r.Address = a
	s.rcpts = append(s.rcpts, accepted{said: said, to: r})
	return nil
}

// resolve tries the whole address first, then without "+detail" (RFC 5233), as
// sites that come from Dovecot or Cyrus expect. Only a sure "no such user"
// leads to the second question.
func (s *session) resolve(a slot.Address) (r Recipient, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked("resolve", v)
		}
	}()
	ctx, cancel := context.WithTimeout(s.server.base, s.server.cfg.Timeouts.Mail)
	defer cancel()
	r, err = s.server.cfg.Mail.Resolve(ctx, a, s.size)
	if err == nil || reply(err).Code != 550 {
		return r, err
	}
	base, found := a.WithoutDetail()
	if !found {
		return r, err
	}
	return s.server.cfg.Mail.Resolve(ctx, base, s.size)
}

// panicked keeps a bug in one message from taking the connection, or worse.
func (s *session) panicked(doing string, v any) error {
	s.server.cfg.Logger.Error("LMTP panic", "doing", doing, "panic", fmt.Sprint(v))
	return storage.Errorf(storage.ErrUnavailable, "%s: panic: %v", doing, v)
}

// Data is never called: LMTPData stands in for it.
func (s *session) Data(io.Reader) error {
	return reply(storage.Errorf(storage.ErrUnavailable, "receive message: not LMTP"))
}

// LMTPData receives the message and answers each RCPT. It leaves go-smtp's
// reader alone (see body), and gives it only the final dot to find.
func (s *session) LMTPData(_ io.Reader, status smtp.StatusCollector) error {
	s.conn.flush() // the 354, also to a client that did not wait for it; a broken socket shows at the next read
	answers := s.receive()
	for i, r := range s.rcpts {
		status.SetStatus(r.said, answers[i])
	}
	return nil
}

// receive returns one answer per RCPT.
func (s *session) receive() []*smtp.SMTPError {
	date := s.server.cfg.Now()
	t := trace{
		hostname: s.server.cfg.Hostname, lhlo: s.lhlo, client: s.conn.RemoteAddr(),
		tls: s.conn.tls, utf8: s.utf8, id: rand.Text()[:16], from: s.from, date: date,
	}
	to := unique(s.rcpts)
	if oneAddress(s.rcpts) {
		t.deliveredTo = to[0].Address
	}
	spool := s.spool.Swap(nil)
	defer s.drop(spool)
	var size int64
	err := error(storage.Errorf(storage.ErrUnavailable, "receive message: the server has shut down"))
	if spool != nil {
		size, err = s.take(spool, t.header())
	} else {
		s.conn.err = err // the message is no commands
	}
	if err != nil {
		s.log(t.id, size, err)
		answers := make([]*smtp.SMTPError, len(s.rcpts))
		for i := range answers {
			answers[i] = messageReply(err)
			s.server.cfg.Metrics.Replied(answers[i].Code, 0)
		}
		return answers
	}
	s.server.cfg.Metrics.Received(size)
	received := time.Now()
	results := s.deliver(spool, date, to)
	errs := spread(s.rcpts, to, results)
	answers := make([]*smtp.SMTPError, len(errs))
	for i, err := range errs {
		answers[i] = dataReply(err)
		s.server.cfg.Metrics.Replied(answers[i].Code, time.Since(received))
		if err != nil {
			s.log(t.id, size, fmt.Errorf("deliver to %q: %w", s.rcpts[i].to.Address, err))
		}
	}
	s.server.cfg.Logger.Info("mail received", "id", t.id, "client", clientName(t.client), "from", s.from,
		"recipients", len(errs), "bytes", size, "seconds", time.Since(received).Seconds())
	return answers
}

func (s *session) log(id string, size int64, err error) {
	s.server.cfg.Logger.Warn("mail not delivered", "id", id, "client", clientName(s.conn.RemoteAddr()),
		"from", s.from, "bytes", size, "error", err)
}

// chunks is memory for take; a transaction borrows one.
type chunks struct{ sync.Pool }

func (c *chunks) get() *[chunkBytes]byte {
	if b, ok := c.Get().(*[chunkBytes]byte); ok {
		return b
	}
	return new([chunkBytes]byte)
}

// take writes header and message, and returns the message's size as sent. It
// reads to the final dot whatever happens to the spool, or what is left of the
// message would run as commands.
func (s *session) take(to io.Writer, header string) (int64, error) {
	_, failed := io.WriteString(to, header)
	f := headerFilter{to: to}
	chunk := s.server.chunks.get()
	defer s.server.chunks.Put(chunk)
	in := newBody(s.conn.in)
	s.conn.pace = &storage.Pace{Window: s.server.cfg.Timeouts.Pace}
	defer func() { s.conn.pace = nil }()
	var size int64
	for {
		n, err := in.Read(chunk[:])
		size += int64(n) // RFC 1870, section 3: without the stuffing and the final dot
		if failed == nil && size > s.server.cfg.MessageBytesMax {
			failed = storage.Errorf(storage.ErrTooBig, "receive message: over %d bytes", s.server.cfg.MessageBytesMax)
		}
		if failed == nil {
			_, failed = f.Write(chunk[:n])
		}
		switch {
		case err == io.EOF:
			if failed == nil {
				failed = f.Flush()
			}
			s.conn.pending = []byte(".\r\n")
			return size, failed
		case err != nil:
			s.conn.err = err // nothing that comes after half a message is a command
			return size, fmt.Errorf("receive message: %w", err)
		}
	}
}

// deliver hands a message to the node and distrusts the answer.
func (s *session) deliver(body storage.Body, date time.Time, to []Recipient) (errs []error) {
	defer func() {
		if v := recover(); v != nil {
			errs = fill(len(to), s.panicked("deliver", v))
		}
	}()
	// Not bound to the connection: the client has sent its dot, and a delivery
	// that is kept is better than one that is cut.
	ctx, cancel := context.WithTimeout(s.server.base, s.server.cfg.Timeouts.Mail)
	defer cancel()
	errs = s.server.cfg.Mail.Deliver(ctx, body, date, to)
	if len(errs) != len(to) {
		return fill(len(to), storage.Errorf(storage.ErrUnavailable, "deliver message: %d results for %d recipients", len(errs), len(to)))
	}
	return errs
}

func fill(n int, err error) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

type accountKey struct {
	slot    slot.ID
	account storage.AccountID
}

func (r Recipient) key() accountKey { return accountKey{r.Slot, r.Account} }

// unique keeps the first RCPT of each account: an account gets one copy of a
// message, under however many of its addresses it was sent.
func unique(rcpts []accepted) []Recipient {
	seen := make(map[accountKey]bool, len(rcpts))
	out := make([]Recipient, 0, len(rcpts))
	for _, r := range rcpts {
		if !seen[r.to.key()] {
			seen[r.to.key()] = true
			out = append(out, r.to)
		}
	}
	return out
}

// spread gives each RCPT its account's result.
func spread(rcpts []accepted, to []Recipient, results []error) []error {
	by := make(map[accountKey]error, len(to))
	for i, r := range to {
		by[r.key()] = results[i]
	}
	errs := make([]error, len(rcpts))
	for i, r := range rcpts {
		errs[i] = by[r.to.key()]
	}
	return errs
}

func oneAddress(rcpts []accepted) bool {
	for _, r := range rcpts {
		if r.to.Address != rcpts[0].to.Address {
			return false
		}
	}
	return true
}

// Reset ends the transaction.
func (s *session) Reset() {
	s.open, s.from, s.size, s.utf8, s.rcpts = false, "", 0, false, nil
	s.drop(s.spool.Swap(nil))
	s.conn.transaction(false)
}

// Logout ends the session.
func (s *session) Logout() error {
	s.drop(s.spool.Swap(nil))
	s.conn.transaction(false)
	return nil
}
