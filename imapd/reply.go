package imapd

import (
	"context"
	"errors"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// reply is a tagged response.
type reply struct {
	status string // OK, NO or BAD
	code   string // RFC 5530 and others, without brackets; may be ""
	text   string
}

// ok makes the usual answer of a command.
func ok(text string) (reply, error) { return reply{status: "OK", text: text}, nil }

// okVanished answers a command that passed over messages which are gone (RFC
// 2180, section 4.1.2; RFC 5530, section 3).
func okVanished(text string, vanished bool) (reply, error) {
	if vanished {
		return reply{"OK", "EXPUNGEISSUED", text + ", some of the messages are gone"}, nil
	}
	return ok(text)
}

// replyError carries a reply that no error kind stands for.
type replyError struct{ reply }

func (e *replyError) Error() string { return e.text }

func no(code, text string) error { return &replyError{reply{"NO", code, text}} }

// byeError ends the session.
type byeError struct{ code, text string }

func (e *byeError) Error() string { return e.text }

// errTarget marks an ErrNotFound as that of a mailbox that the client may create.
var errTarget = errors.New("target mailbox")

// replyTo maps an error to its answer: the only place that does. A byeError is
// returned for what ends the session. Texts are fixed: an error's own text is
// for the log, it may name other users' things.
func replyTo(err error) (reply, *byeError) {
	var syntax *wire.SyntaxError
	var name *wire.NameError
	var own *replyError
	var bye *byeError
	no := func(code, text string) (reply, *byeError) { return reply{"NO", code, text}, nil }
	switch {
	case errors.As(err, &bye):
		return reply{}, bye
	case errors.As(err, &own):
		return own.reply, nil
	case errors.As(err, &syntax):
		return reply{"BAD", "", syntax.Error()}, nil
	case errors.As(err, &name):
		return no("CANNOT", "not a mailbox name in modified UTF-7")
	case errors.Is(err, storage.ErrNotMaster):
		return reply{}, &byeError{"UNAVAILABLE", "your mail has moved to another node, connect again"}
	case errors.Is(err, context.Canceled):
		return reply{}, &byeError{"UNAVAILABLE", "server is shutting down"}
	case errors.Is(err, storage.ErrDiskFull):
		return no("UNAVAILABLE", "no disk space at the moment")
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, storage.ErrDiverged):
		// Before ErrNotFound and ErrAuth: an error of two kinds means that we don't
		// know (RFC 5530, section 3: NONEXISTENT lets a client forget what it has).
		return no("UNAVAILABLE", "not available at the moment")
	case errors.Is(err, storage.ErrNotFound) && errors.Is(err, errTarget):
		return no("TRYCREATE", "no such mailbox")
	case errors.Is(err, storage.ErrNotFound):
		return no("NONEXISTENT", "no such mailbox")
	case errors.Is(err, storage.ErrExists):
		return no("ALREADYEXISTS", "mailbox exists already")
	case errors.Is(err, storage.ErrOverQuota):
		return no("OVERQUOTA", "over quota")
	case errors.Is(err, storage.ErrLimit), errors.Is(err, storage.ErrTooBig):
		return no("LIMIT", "over a limit")
	case errors.Is(err, storage.ErrInvalid):
		return no("CANNOT", "not allowed")
	case errors.Is(err, storage.ErrAuth):
		return no("AUTHENTICATIONFAILED", "user or password is wrong")
	case errors.Is(err, storage.ErrCorrupt):
		return no("UNAVAILABLE", "the message is being repaired")
	}
	return no("SERVERBUG", "internal error") // the caller logs it
}

// known reports whether err is of a kind that needs no log line.
func known(r reply) bool { return r.code != "SERVERBUG" }

// writeTagged writes a tagged response; without a tag an untagged one.
func (c *session) writeTagged(tag string, r *reply) {
	if tag == "" {
		tag = "*"
	}
	c.w.Str(tag).Byte(' ').Str(r.status).Byte(' ')
	if r.code != "" {
		c.w.Byte('[').Str(r.code).Str("] ")
	}
	c.w.Str(r.text).CRLF()
}

// peerError is an error that the user's master told the front node. Which node is
// the master is no longer the client's business: it may try again.
func peerError(name, text string) error {
	kind := storage.NamedKind(name)
	if kind == storage.ErrNotMaster {
		kind = storage.ErrUnavailable
	}
	return storage.Errorf(kind, "%s", text)
}
