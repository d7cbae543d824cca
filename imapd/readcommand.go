package imapd

import (
	"errors"
	"strings"

	"mailnode/imapd/wire"
)

// The bytes that one command may have, literals included, the message of an
// APPEND not.
const (
	commandBytesBefore = 36 << 10 // login; room for the largest ID (RFC 2971, section 3.3)
	commandBytesAfter  = 64 << 10
)

// commandsMaxBefore is how many commands a connection may use until it has logged
// in. With commandBytesBefore it bounds the bytes, too.
const commandsMaxBefore = 50

// command is one framed command.
type command struct {
	tag, verb string
	spec      *spec
	text      []byte // from framePool
	*wire.Decoder
	message *wire.Literal // of an APPEND; its bytes have not been read
	watch   *watch
}

func (c *session) commandBytesMax() int {
	if c.store == nil {
		return commandBytesBefore
	}
	return commandBytesAfter
}

// readCommand frames the next command. It returns nil when the command was
// refused; the refusal is written. An error ends the session.
//
// The verb and the state are checked on the first line: an argument of a command
// that may not run is never kept. A refused command is read to its end, or the
// connection is closed; its literals are never looked at (RFC 7888, section 4).
func (c *session) readCommand() (*command, error) {
	limit := c.commandBytesMax()
	if c.store == nil {
		if c.commands++; c.commands > commandsMaxBefore {
			return nil, c.bye("CLIENTBUG", "too many commands before logging in")
		}
	}
	text, err := c.r.ReadLine(c.srv.framePool.Get(), limit)
	if err != nil {
		return nil, c.tooLong(text, err)
	}
	cmd := &command{text: text}
	refusal := c.readHead(cmd)
	line := 0 // where the last line begins
	for {
		lit, ok := wire.LineLiteral(cmd.text[line:])
		if !ok {
			break
		}
		if refusal == nil && cmd.spec.stream {
			var isMessage bool
			if isMessage, refusal = appendLiteral(cmd); isMessage {
				cmd.message = &lit
				break
			}
		}
		if refusal == nil && lit.Size > int64(limit-len(cmd.text)) {
			refusal = &reply{"BAD", "TOOBIG", "literal too big"}
		}
		if refusal != nil {
			return nil, c.refuseFrom(cmd, lit, refusal)
		}
		if lit.Sync {
			c.w.Str("+ go on").CRLF()
			if err := c.w.Flush(); err != nil {
				return nil, err
			}
		}
		if cmd.text, err = c.r.ReadFull(cmd.text, int(lit.Size)); err != nil {
			return nil, err
		}
		line = len(cmd.text)
		if cmd.text, err = c.r.ReadLine(cmd.text, limit-len(cmd.text)); err != nil {
			return nil, c.tooLong(cmd.text, err)
		}
	}
	if refusal != nil {
		return nil, c.refused(cmd, refusal)
	}
	// The text may have moved while it grew.
	cmd.Decoder = newArguments(cmd)
	return cmd, nil
}

// dropText gives a parsed command's buffer back early: before a long wait.
func (c *session) dropText(cmd *command) {
	c.srv.framePool.Put(cmd.text)
	cmd.text, cmd.Decoder = nil, nil
}

// newArguments returns a Decoder that stands behind the verb.
func newArguments(cmd *command) *wire.Decoder {
	d := wire.NewDecoder(cmd.text)
	skipHead(d)
	return d
}

func skipHead(d *wire.Decoder) (tag, verb string) {
	tag = d.Tag()
	d.SP()
	verb = d.Keyword()
	if verb == "UID" {
		d.SP()
		verb = "UID " + d.Keyword()
	}
	return tag, verb
}

// readHead reads tag and verb and returns why the command may not run.
func (c *session) readHead(cmd *command) *reply {
	d := wire.NewDecoder(cmd.text)
	cmd.tag, cmd.verb = skipHead(d)
	if d.Err() != nil {
		return &reply{"BAD", "", "want a tag and a command"}
	}
	sp, ok := commands[cmd.verb]
	cmd.spec = sp
	switch {
	case !ok:
		return &reply{"BAD", "", "unknown command"}
	case sp.states&c.state() == 0:
		return &reply{"BAD", "", cmd.verb + " is not allowed in this state"}
	case sp.login && !c.tls && !c.plainLogin:
		return &reply{"NO", "PRIVACYREQUIRED", "encrypt the connection first"}
	case sp.writes && c.view.readOnly:
		return &reply{"NO", "NOPERM", "the mailbox is open read-only"}
	}
	return nil
}

// refuseFrom refuses a command of which a literal is announced.
func (c *session) refuseFrom(cmd *command, lit wire.Literal, why *reply) error {
	budget := int64(c.commandBytesMax())
	var scratch []byte
	for {
		if lit.Sync {
			// Without a continuation request the client sends no literal. One that
			// has sent something already cannot be understood any more.
			if c.r.Buffered() > 0 {
				return c.bye("CLIENTBUG", "bytes after a literal that was not asked for")
			}
			return c.refused(cmd, why)
		}
		if lit.Size > budget {
			c.writeTagged(cmd.tag, why)
			return c.bye("TOOBIG", "literal too big")
		}
		budget -= lit.Size
		if err := c.r.Discard(lit.Size); err != nil {
			return err
		}
		var err error
		if scratch, err = c.r.ReadLine(scratch[:0], int(budget)); err != nil {
			return c.tooLong(cmd.text, err)
		}
		budget -= int64(len(scratch))
		var more bool
		if lit, more = wire.LineLiteral(scratch); !more {
			return c.refused(cmd, why)
		}
	}
}

func (c *session) refused(cmd *command, why *reply) error {
	c.writeTagged(cmd.tag, why)
	c.srv.framePool.Put(cmd.text)
	return c.countBad(why.status)
}

// countBad ends a session that sends nothing that makes sense.
func (c *session) countBad(status string) error {
	if status != "BAD" {
		c.bad = 0
		return nil
	}
	if c.bad++; c.bad >= badMax || c.store == nil && c.bad >= badMax/4 {
		return c.bye("CLIENTBUG", "too many bad commands")
	}
	return nil
}

// tooLong ends a session whose line does not end: what follows it could not be
// told from a command.
func (c *session) tooLong(text []byte, err error) error {
	if !errors.Is(err, wire.ErrTooLong) {
		return connError{err}
	}
	tag, _, _ := strings.Cut(string(text[:min(len(text), 100)]), " ")
	if !wire.IsTag(tag) {
		tag = ""
	}
	c.writeTagged(tag, &reply{"BAD", "LIMIT", "command too long"})
	return c.bye("LIMIT", "command too long")
}
