package imapd

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// appendArguments are what stands before an APPEND's message.
type appendArguments struct {
	mailbox string
	flags   []string
	date    time.Time
}

// appendHead parses APPEND's arguments up to where its message's literal must
// be announced.
func appendHead(cmd *command) (a appendArguments, d *wire.Decoder) {
	d = newArguments(cmd)
	d.SP()
	a.mailbox = d.Mailbox()
	d.SP()
	if d.Peek() == '(' {
		a.flags = d.FlagList()
		d.SP()
	}
	if d.Peek() == '"' {
		a.date = d.DateTime()
		d.SP()
	}
	return a, d
}

// appendLiteral reports whether the literal that is announced at the end of the
// text is the message. If not, it is the mailbox's name; anything else is wrong.
func appendLiteral(cmd *command) (isMessage bool, refusal *reply) {
	d := newArguments(cmd)
	if d.SP(); d.AtLiteralEnd() {
		return false, nil
	}
	_, d = appendHead(cmd)
	if !d.Failed() && d.AtLiteralEnd() {
		return true, nil // what else is wrong is said once it is known what becomes of the message
	}
	d.Fail("a mailbox, flags, a date and a message")
	return false, &reply{"BAD", "", d.Err().Error()}
}

// append is APPEND (RFC 3501, section 6.3.11). Whatever is wrong is found before
// the message is asked for; a message that comes without having been asked for
// is read and dropped up to the size limit, beyond it the connection is closed
// (RFC 7888, section 4). Its bytes are never taken for commands.
func (c *session) append(cmd *command) (reply, error) {
	if cmd.message == nil {
		return reply{"BAD", "", "want a message as a literal"}, nil
	}
	a, d := appendHead(cmd)
	if err := d.Err(); err != nil {
		return c.appendRefused(*cmd.message, err)
	}
	flags, err := c.appendAllowed(&a, *cmd.message)
	if err != nil {
		return c.appendRefused(*cmd.message, err)
	}
	spool, announced, err := c.announce(cmd.message.Size)
	if err != nil {
		return c.appendRefused(*cmd.message, err)
	}
	defer spool.Close()
	defer announced()
	if cmd.message.Sync {
		c.w.Str("+ send the message").CRLF()
		if err := c.w.Flush(); err != nil {
			return reply{}, err
		}
	}
	if err := c.readMessage(spool, cmd.message.Size); err != nil {
		return reply{}, err
	}
	announced() // the message itself counts from here on
	appended, err := c.store.Append(c.ctx, c.account, storage.Append{Mailbox: a.mailbox, Body: spool, Flags: flags, InternalDate: a.date})
	if err != nil {
		return reply{}, c.target(err)
	}
	return reply{"OK", fmt.Sprintf("APPENDUID %d %d", appended.UIDValidity, appended.UID), "APPEND completed"}, nil
}

// appendAllowed says what can be said before the message is read.
func (c *session) appendAllowed(a *appendArguments, lit wire.Literal) (storage.Flags, error) {
	flags, err := storage.ParseFlags(a.flags)
	if err != nil {
		return flags, err
	}
	if lit.Size > c.srv.cfg.Limits.MessageBytesMax {
		return flags, no("TOOBIG", "message too big")
	}
	if lit.Size == 0 {
		return flags, no("CANNOT", "the message is empty") // RFC 3502, section 6.3.11: an empty literal cancels
	}
	_, err = c.store.Mailbox(c.ctx, c.account, a.mailbox)
	return flags, c.target(err)
}

// announce keeps room for a message before it is asked for, in the user's mail and
// on its way there.
func (c *session) announce(size int64) (spool *storage.Spool, end func(), err error) {
	if end, err = c.store.Announce(c.ctx, c.account, size); err != nil {
		return nil, nil, err
	}
	owner := storage.SpoolOwner{Name: fmt.Sprintf("account %016x", uint64(c.account)), BytesMax: storage.SpoolOwnerBytesMax, SpoolsMax: storage.SpoolsOwnerMax}
	if spool, err = c.srv.cfg.Spool.Announce(owner, size); err != nil {
		end()
		return nil, nil, err
	}
	return spool, end, nil
}

func (c *session) appendRefused(lit wire.Literal, why error) (reply, error) {
	if lit.Sync {
		if c.r.Buffered() > 0 {
			return reply{}, &byeError{"CLIENTBUG", "bytes after a literal that was not asked for"}
		}
		return reply{}, why
	}
	if lit.Size > c.srv.cfg.Limits.MessageBytesMax {
		return reply{}, &byeError{"TOOBIG", "message too big"}
	}
	c.net.absolute = time.Time{}
	if err := c.r.Discard(lit.Size); err != nil {
		return reply{}, connError{err}
	}
	return reply{}, errors.Join(c.appendEnd(), why)
}

// appendEnd reads the rest of the line behind the message: it must be empty.
func (c *session) appendEnd() error {
	line, err := c.r.ReadLine(nil, commandBytesAfter)
	if err != nil {
		return c.tooLong(nil, err)
	}
	if _, more := wire.LineLiteral(line); more {
		return &byeError{"CLIENTBUG", "one message at a time"} // a further literal
	}
	if strings.TrimLeft(string(line), " ") != "\r\n" {
		return &wire.SyntaxError{Want: "the end of the command after the message"}
	}
	return nil
}

// readMessage copies the message to the spool. When the disk refuses it, the
// rest is still read, so that it is not taken for commands.
func (c *session) readMessage(spool *storage.Spool, size int64) error {
	c.net.absolute = time.Time{} // each read has its deadline; a large message may take its time
	buf := c.srv.splicePool.Get()
	buf = buf[:cap(buf)]
	defer c.srv.splicePool.Put(buf)
	var failed error
	pace := storage.Pace{Window: c.srv.cfg.Timeouts.Pace}
	for left := size; left > 0; {
		began := time.Now()
		n, err := c.r.Read(buf[:min(left, int64(len(buf)))])
		left -= int64(n)
		if left > 0 && pace.TooSlow(time.Since(began), n) {
			return &byeError{"UNAVAILABLE", "the message comes too slowly"}
		}
		if n > 0 && failed == nil {
			if _, err := spool.Write(buf[:n]); err != nil {
				failed = storage.Errorf(storage.ErrUnavailable, "spool message: %w", err)
			}
		}
		if err != nil && left > 0 {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return connError{err}
		}
	}
	c.net.absolute = time.Now().Add(c.srv.cfg.Timeouts.Command)
	return errors.Join(c.appendEnd(), failed)
}
