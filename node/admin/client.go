package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"mailnode/storage/slot"
)

// answerMax bounds what a client reads, in bytes: 10,000 slots, or a million users.
const answerMax = 512 << 20

// Client talks to the node behind a socket. Its errors are *Error.
type Client struct {
	socket string
	http   *http.Client
	probe  time.Duration                                    // for a sign of life; tests change it
	within func(method, path string) (answer time.Duration) // likewise
}

// NewClient returns a client; it connects when it is asked something.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, probe: probeTimeout, within: patience, http: &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true},
	}}
}

// Version asks who answers there.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.get(ctx, "/v1/version", &v)
}

// Status asks how things are.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.get(ctx, "/v1/status", &s)
}

// Proposals lists the open ones; all adds those that were closed lately.
func (c *Client) Proposals(ctx context.Context, all bool) (p Proposals, err error) {
	path := "/v1/failover/proposals"
	if all {
		path += "?all=1"
	}
	return p, c.get(ctx, path, &p)
}

// Plan shows what confirming would do; "" is the only open proposal.
func (c *Client) Plan(ctx context.Context, id string) (p Plan, err error) {
	return p, c.get(ctx, "/v1/failover/plan?id="+url.QueryEscape(id), &p)
}

// Propose opens a proposal; it changes no master.
func (c *Client) Propose(ctx context.Context, r ProposeRequest) (p Proposed, err error) {
	return p, c.post(ctx, "/v1/failover/propose", r, &p)
}

// Confirm returns when every confirmed slot serves, or 30 s are over.
func (c *Client) Confirm(ctx context.Context, r ConfirmRequest) (o Outcome, err error) {
	return o, c.post(ctx, "/v1/failover/confirm", r, &o)
}

// Reject closes a proposal.
func (c *Client) Reject(ctx context.Context, r RejectRequest) error {
	return c.post(ctx, "/v1/failover/reject", r, nil)
}

// Users lists the users of all slots that can be asked.
func (c *Client) Users(ctx context.Context) (u Users, err error) {
	return u, c.get(ctx, "/v1/users", &u)
}

// User shows one.
func (c *Client) User(ctx context.Context, a slot.Address) (u User, err error) {
	return u, c.get(ctx, "/v1/users/"+url.PathEscape(string(a)), &u)
}

// AddUser makes an account.
func (c *Client) AddUser(ctx context.Context, r AddUser) (u User, err error) {
	return u, c.post(ctx, "/v1/users", r, &u)
}

// SetPassword changes a password.
func (c *Client) SetPassword(ctx context.Context, r SetPassword) error {
	return c.post(ctx, "/v1/users/password", r, nil)
}

// Slots lists all slots.
func (c *Client) Slots(ctx context.Context) (s Slots, err error) {
	return s, c.get(ctx, "/v1/slots", &s)
}

// Slot shows one, by the operator's form of its ID.
func (c *Client) Slot(ctx context.Context, id string) (s SlotDetail, err error) {
	return s, c.get(ctx, "/v1/slots/"+url.PathEscape(id), &s)
}

// DismissLoss closes a slot's open loss without a rescue.
func (c *Client) DismissLoss(ctx context.Context, r DismissLoss) error {
	return c.post(ctx, "/v1/losses/dismiss", r, &struct{}{})
}

// Members lists the members.
func (c *Client) Members(ctx context.Context) (m Members, err error) {
	return m, c.get(ctx, "/v1/members", &m)
}

// Token makes a join token for a node.
func (c *Client) Token(ctx context.Context, r TokenRequest) (t Token, err error) {
	return t, c.post(ctx, "/v1/tokens", r, &t)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.ask(ctx, http.MethodGet, path, nil, into)
}

func (c *Client) post(ctx context.Context, path string, q, into any) error {
	body, err := json.Marshal(q)
	if err != nil {
		return &Error{Text: fmt.Sprintf("ask node: %v", err), Exit: ExitFailed}
	}
	return c.ask(ctx, http.MethodPost, path, body, into)
}

func (c *Client) ask(ctx context.Context, method, path string, body []byte, into any) error {
	if err := c.alive(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.within(method, path))
	defer cancel()
	began := time.Now()
	r, err := http.NewRequestWithContext(ctx, method, "http://mailnode"+path, bytes.NewReader(body))
	if err != nil {
		return &Error{Text: fmt.Sprintf("ask node: %v", err), Exit: ExitFailed}
	}
	w, err := c.http.Do(r)
	if err != nil {
		return c.unanswered(method, path, time.Since(began), err)
	}
	defer w.Body.Close()
	answer := json.NewDecoder(io.LimitReader(w.Body, answerMax))
	if w.StatusCode != http.StatusOK {
		refusal := &Error{status: w.StatusCode}
		if err := answer.Decode(refusal); err != nil || refusal.Text == "" {
			return &Error{Text: fmt.Sprintf("ask node at %q: it answered %s, not as mailnode does", c.socket, w.Status), Exit: ExitFailed}
		}
		return refusal
	}
	if into == nil {
		return nil
	}
	if err := answer.Decode(into); ctx.Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return c.unanswered(method, path, time.Since(began), ctx.Err())
	} else if err != nil {
		return &Error{Text: fmt.Sprintf("read answer of node at %q: %v", c.socket, err), Exit: ExitFailed}
	}
	return nil
}

// alive proves that the node behind the socket answers at all, before anything is
// asked of it: an order to one that hangs would have an unknown outcome.
func (c *Client) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.probe)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://mailnode/v1/version", nil)
	if err != nil {
		return &Error{Text: fmt.Sprintf("ask node: %v", err), Exit: ExitFailed}
	}
	w, err := c.http.Do(r)
	switch {
	case err == nil:
		w.Body.Close()
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return c.silent()
	}
	return c.unreached(err)
}

// unreached says what to do about a node that cannot be asked.
func (c *Client) unreached(err error) error {
	text := fmt.Sprintf("ask node at %q: %v", c.socket, errors.Unwrap(err))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		text = fmt.Sprintf("is mailnode running? tried %s; use --socket for another", c.socket)
	case errors.Is(err, fs.ErrPermission):
		text = fmt.Sprintf("ask node at %q: permission denied: only root and the node's own user may; use sudo", c.socket)
	case errors.Is(err, syscall.EINVAL):
		text = fmt.Sprintf("ask node at %q: the path is too long for a unix socket; use --socket", c.socket)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		text = fmt.Sprintf("ask node at %q: it ends just now; ask another node", c.socket)
	}
	return &Error{Text: text, Exit: ExitFailed}
}
