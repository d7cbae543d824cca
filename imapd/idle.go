package imapd

import (
	"strings"
	"time"
)

// idleLineMax is room enough for DONE.
const idleLineMax = 1 << 10

// idle is IDLE (RFC 2177). A second goroutine reads the client's DONE, this one
// waits for the store; nothing is polled. Only while that goroutine reads may
// nobody else use c.r and c.net's read side.
func (c *session) idle(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	c.dropText(cmd)
	cmd.watch.end() // the one who reads hears it
	c.w.Str("+ idling").CRLF()
	if err := c.w.Flush(); err != nil {
		return reply{}, connError{err}
	}
	began := time.Now()
	c.next = func() error {
		r, err := c.idling()
		return c.answer(cmd, began, r, err)
	}
	return reply{}, errGoOn
}

// idling tells changes until the client is DONE.
func (c *session) idling() (reply, error) {
	c.net.read, c.net.absolute = c.srv.cfg.Timeouts.Idle, time.Time{}
	type input struct {
		line string
		err  error
	}
	read := make(chan input, 1)
	go func() {
		var line []byte
		err := c.r.Wait()
		if err == nil {
			line, err = c.r.ReadLine(nil, idleLineMax)
		}
		read <- input{string(line), err}
	}()
	var changed <-chan struct{}
	if c.view != nil {
		changed = c.view.changed
	}
	for {
		if c.view != nil {
			if bye := c.tellChanges(true); bye != nil {
				c.kick()
				<-read
				return reply{}, bye
			}
		}
		if err := c.w.Flush(); err != nil {
			c.kick()
			<-read
			return reply{}, connError{err}
		}
		select {
		case <-changed:
			c.view.poll = true
		case in := <-read:
			if in.err != nil {
				return reply{}, connError{in.err}
			}
			if !strings.EqualFold(strings.TrimRight(in.line, " \r\n"), "DONE") {
				return reply{"BAD", "", "want DONE"}, nil
			}
			return ok("IDLE completed")
		}
	}
}
