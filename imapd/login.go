package imapd

import (
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"mailnode/storage"
	"mailnode/storage/fair"
	"mailnode/storage/slot"
)

// login is LOGIN (RFC 3501, section 6.2.3).
func (c *session) login(cmd *command) (reply, error) {
	cmd.SP()
	user := cmd.AString()
	cmd.SP()
	password := cmd.AString()
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	return c.logIn(cmd, user, password)
}

// authenticate is AUTHENTICATE PLAIN (RFC 3501, section 6.2.2; RFC 4616), with or
// without an initial response (RFC 4959).
func (c *session) authenticate(cmd *command) (reply, error) {
	cmd.SP()
	mechanism := cmd.Keyword()
	initial, given := "", false
	if cmd.Try(' ') {
		initial, given = cmd.Base64(), true
	}
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	if mechanism != "PLAIN" {
		return reply{}, no("CANNOT", "this mechanism is not offered")
	}
	if !given {
		c.w.Str("+ ").CRLF()
		if err := c.w.Flush(); err != nil {
			return reply{}, err
		}
		line, err := c.r.ReadLine(nil, commandBytesBefore)
		if err != nil {
			return reply{}, c.tooLong(nil, err)
		}
		initial = strings.TrimSuffix(string(line), "\r\n")
	}
	if initial == "*" {
		return reply{"BAD", "", "AUTHENTICATE cancelled"}, nil
	}
	if initial == "=" { // RFC 4959, section 3: an empty initial response
		initial = ""
	}
	raw, err := base64.StdEncoding.DecodeString(initial)
	if err != nil {
		return reply{"BAD", "", "want base64"}, nil
	}
	authzid, rest, ok1 := strings.Cut(string(raw), "\x00")
	user, password, ok2 := strings.Cut(rest, "\x00")
	if !ok1 || !ok2 || strings.IndexByte(password, 0) >= 0 {
		return reply{"BAD", "", "want authorisation identity, user and password"}, nil
	}
	if authzid != "" && !sameUser(authzid, user) {
		return reply{}, no("AUTHORIZATIONFAILED", "logging in as another user is not possible")
	}
	return c.logIn(cmd, user, password)
}

// sameUser reports whether two identities are one account's: addresses are compared
// without regard to case (slot.ParseAddress).
func sameUser(authzid, user string) bool {
	a, err := slot.ParseAddress(authzid)
	b, err2 := slot.ParseAddress(user)
	return authzid == user || err == nil && err2 == nil && a == b
}

// logIn finds the user's store, here or on another node.
func (c *session) logIn(cmd *command, user, password string) (reply, error) {
	err := storage.Errorf(storage.ErrAuth, "log in %q: empty user name or password, or too long", user)
	if user != "" && password != "" && len(password) <= storage.MaxPasswordBytes {
		var grant Grant
		grant, err = c.srv.cfg.Login.Login(c.ctx, user, storage.Attempt{Password: password, Client: fair.NetworkOf(c.ip)})
		if err == nil {
			err = c.admit(grant, user)
		}
		var elsewhere *Elsewhere
		if errors.As(err, &elsewhere) {
			err = c.passOn(cmd, elsewhere, user, password)
			if errors.Is(err, errGoOn) {
				return reply{}, err
			}
		}
	}
	if err != nil {
		return c.loginFailed(cmd, user, err)
	}
	return reply{"OK", "CAPABILITY " + c.capabilities(), cmd.verb + " completed"}, nil
}

// admit makes the session a user's.
func (c *session) admit(g Grant, name string) error {
	if err := c.srv.attach(c, g); err != nil {
		return err
	}
	a, err := g.Store.Account(c.ctx, g.Account)
	if why := closedTo(a, err, g.Credential); why != nil {
		c.closeAccount(why) // since its password was proved, and before its store was watched for it
	}
	c.name = name
	c.srv.cfg.Metrics.Login(true)
	c.log().Info("imap login")
	return nil
}

// loginFailed answers. A refused password costs time, more each time, and in the
// end the connection; our own trouble costs nothing (LAWS §7.4). A refusal by a
// master that could not prove to be it costs the same, and is answered as ours.
func (c *session) loginFailed(cmd *command, user string, err error) (reply, error) {
	if errors.Is(err, storage.ErrNotFound) {
		// Unknown users are ErrAuth. What else is missing, such as the account
		// behind an address, may be there again in a moment (LAWS §7.4).
		err = storage.Errorf(storage.ErrUnavailable, "%w", err)
	}
	if !errors.Is(err, storage.ErrAuth) || errors.Is(err, storage.ErrNotMaster) {
		return reply{}, err
	}
	c.srv.cfg.Metrics.Login(false)
	c.failed++
	c.log().Info("imap login refused", "tried", user, "failed", c.failed, "err", err)
	c.pause(time.Duration(c.failed) * c.srv.cfg.Timeouts.BadLogin)
	if c.failed < c.srv.cfg.Limits.LoginsMax {
		return reply{}, err
	}
	r, _ := replyTo(err)
	c.writeTagged(cmd.tag, &r)
	return reply{}, &byeError{"", "too many failed logins"}
}
