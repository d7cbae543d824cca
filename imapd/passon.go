package imapd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"mailnode/storage"
	"mailnode/storage/fair"
)

// Passing a connection on (LAWS §7.1). The front node sends one line of JSON
// with what the client said; the user's master logs the user in once more and
// answers with one line of JSON. After ok the connection is the client's: the
// master writes the tagged OK, the front node only carries bytes.

// passVersion is the version of both lines.
const passVersion = 1

// passLineMax bounds both lines, in bytes.
const passLineMax = 32 << 10

type passRequest struct {
	V          int    `json:"v"`
	User       []byte `json:"user"` // bytes: a client may send any
	Password   []byte `json:"password"`
	ClientAddr string `json:"client_addr"`
	TLS        bool   `json:"tls"`
	Tag        string `json:"tag"`
	Verb       string `json:"verb"` // LOGIN or AUTHENTICATE
}

type passAnswer struct {
	V    int    `json:"v"`
	OK   bool   `json:"ok"`
	Kind string `json:"kind,omitempty"` // of the error: storage.KindName
	Text string `json:"text,omitempty"`
}

// passOn hands the client over to its master: then the error is errGoOn, and the
// session goes on as a splice. Any other error is for the client.
func (c *session) passOn(cmd *command, to *Elsewhere, user, password string) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.Timeouts.Peer)
	defer cancel()
	peer, err := to.Dial(ctx)
	if err != nil {
		c.log().Warn("pass imap connection on", "node", to.Node, "err", err)
		return storage.Errorf(storage.ErrUnavailable, "pass connection on to node %q: %w", to.Node, err)
	}
	passed := false
	defer func() {
		if !passed {
			peer.Close()
		}
	}()
	stopWaiting := context.AfterFunc(ctx, func() { peer.Close() })
	defer stopWaiting()
	peer.SetDeadline(time.Now().Add(c.srv.cfg.Timeouts.Peer))
	line, err := json.Marshal(passRequest{V: passVersion, User: []byte(user), Password: []byte(password),
		ClientAddr: c.ip, TLS: c.tls, Tag: cmd.tag, Verb: cmd.verb})
	if err != nil {
		return fmt.Errorf("encode pass request: %w", err)
	}
	if _, err := peer.Write(append(line, '\n')); err != nil {
		return storage.Errorf(storage.ErrUnavailable, "pass connection on to node %q: %w", to.Node, err)
	}
	answer, rest, err := readAnswer(peer)
	if err != nil {
		c.log().Warn("pass imap connection on", "node", to.Node, "err", err)
		return storage.Errorf(storage.ErrUnavailable, "pass connection on to node %q: %w", to.Node, err)
	}
	if !answer.OK {
		return peerError(answer.Kind, answer.Text)
	}
	if !stopWaiting() { // peer is closed
		return storage.Errorf(storage.ErrUnavailable, "pass connection on to node %q: %w", to.Node, context.Cause(ctx))
	}
	peer.SetDeadline(time.Time{})
	c.log().Info("imap login passed on", "node", to.Node, "tried", user)
	c.dropText(cmd)
	cmd.watch.end() // nothing may be written between the master's bytes
	passed = true
	c.next = func() error { c.splice(peer, rest); return errLogout }
	return errGoOn
}

// readAnswer reads the peer's line and returns what came behind it.
func readAnswer(peer net.Conn) (passAnswer, []byte, error) {
	var answer passAnswer
	buf := make([]byte, 0, 4<<10)
	for {
		if len(buf) == cap(buf) {
			return answer, nil, fmt.Errorf("read answer: longer than %d bytes", cap(buf))
		}
		n, err := peer.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if i := bytes.IndexByte(buf, '\n'); i >= 0 {
			if err := json.Unmarshal(buf[:i], &answer); err != nil {
				return answer, nil, fmt.Errorf("read answer: %w", err)
			}
			return answer, buf[i+1:], nil
		}
		if err != nil {
			return answer, nil, fmt.Errorf("read answer: %w", err)
		}
	}
}

// servePeer is the master's side.
func (c *session) servePeer() error {
	c.net.absolute = time.Now().Add(c.srv.cfg.Timeouts.Peer)
	line, err := c.r.ReadLine(nil, passLineMax)
	if err != nil {
		return fmt.Errorf("read pass request: %w", err)
	}
	var req passRequest
	if err := json.Unmarshal(line, &req); err != nil {
		return fmt.Errorf("read pass request: %w", err)
	}
	c.ip, c.tls = req.ClientAddr, req.TLS
	w := c.watchClient()
	err = c.logInPeer(&req)
	w.end()
	answer := passAnswer{V: passVersion, OK: err == nil}
	if err != nil {
		answer.Kind, answer.Text = storage.KindName(err), err.Error()
	}
	line, jsonErr := json.Marshal(answer)
	if jsonErr != nil {
		return fmt.Errorf("encode pass answer: %w", jsonErr)
	}
	c.w.Raw(line).Byte('\n')
	if err != nil {
		c.w.Flush()
		return err
	}
	c.writeTagged(req.Tag, &reply{"OK", "CAPABILITY " + c.capabilities(), req.Verb + " completed"})
	return c.rest(c.w.Flush())
}

// logInPeer never passes on: the front node has asked the user's home, and two
// nodes that each take the other for the master must not pass a client to and fro.
func (c *session) logInPeer(req *passRequest) error {
	if req.V != passVersion {
		return storage.Errorf(storage.ErrUnavailable, "read pass request: version %d, want %d", req.V, passVersion)
	}
	grant, err := c.srv.cfg.Login.Login(c.ctx, string(req.User), storage.Attempt{Password: string(req.Password), Client: fair.NetworkOf(req.ClientAddr)})
	if err != nil {
		return err
	}
	return c.admit(grant, string(req.User))
}
