package imapd

import (
	"context"
	"errors"
	"time"
)

// spec is what is known of a command before its arguments are read.
type spec struct {
	run    func(c *session, cmd *command) (reply, error)
	states state
	login  bool // needs an encrypted connection
	writes bool // changes the selected mailbox: refused after EXAMINE
	stream bool // its last literal is a message
	// numbered commands use sequence numbers: no EXPUNGE while they run (RFC
	// 3501, section 7.4.1).
	numbered bool
}

// commands is every command that is served.
var commands = map[string]*spec{
	"CAPABILITY":   {run: (*session).capability, states: anyState},
	"NOOP":         {run: (*session).noop, states: anyState},
	"LOGOUT":       {run: (*session).logout, states: anyState},
	"ID":           {run: (*session).identify, states: anyState},
	"STARTTLS":     {run: (*session).startTLS, states: notAuthenticated},
	"LOGIN":        {run: (*session).login, states: notAuthenticated, login: true},
	"AUTHENTICATE": {run: (*session).authenticate, states: notAuthenticated, login: true},

	"ENABLE":      {run: (*session).enable, states: loggedIn},
	"NAMESPACE":   {run: (*session).namespace, states: loggedIn},
	"LIST":        {run: (*session).list, states: loggedIn},
	"LSUB":        {run: (*session).lsub, states: loggedIn},
	"CREATE":      {run: (*session).create, states: loggedIn},
	"DELETE":      {run: (*session).delete, states: loggedIn},
	"RENAME":      {run: (*session).rename, states: loggedIn},
	"SUBSCRIBE":   {run: (*session).subscribe, states: loggedIn},
	"UNSUBSCRIBE": {run: (*session).unsubscribe, states: loggedIn},
	"STATUS":      {run: (*session).status, states: loggedIn},
	"SELECT":      {run: (*session).selectMailbox, states: loggedIn},
	"EXAMINE":     {run: (*session).examine, states: loggedIn},
	"APPEND":      {run: (*session).append, states: loggedIn, stream: true},
	"IDLE":        {run: (*session).idle, states: loggedIn},

	"CHECK":       {run: (*session).noop, states: selected},
	"CLOSE":       {run: (*session).closeMailbox, states: selected},
	"UNSELECT":    {run: (*session).unselectMailbox, states: selected},
	"FETCH":       {run: (*session).fetch, states: selected, numbered: true},
	"UID FETCH":   {run: (*session).fetch, states: selected},
	"STORE":       {run: (*session).storeFlags, states: selected, writes: true, numbered: true},
	"UID STORE":   {run: (*session).storeFlags, states: selected, writes: true},
	"SEARCH":      {run: (*session).search, states: selected, numbered: true},
	"UID SEARCH":  {run: (*session).search, states: selected},
	"COPY":        {run: (*session).copy, states: selected},
	"UID COPY":    {run: (*session).copy, states: selected},
	"MOVE":        {run: (*session).move, states: selected, writes: true},
	"UID MOVE":    {run: (*session).move, states: selected, writes: true},
	"EXPUNGE":     {run: (*session).expunge, states: selected, writes: true},
	"UID EXPUNGE": {run: (*session).uidExpunge, states: selected, writes: true},
}

// isUID reports whether the command counts in UIDs.
func (cmd *command) isUID() bool { return len(cmd.verb) > 4 && cmd.verb[:4] == "UID " }

// serveCommand runs a command and answers. An error ends the session, or this
// goroutine's part in it.
func (c *session) serveCommand(cmd *command) error {
	began := time.Now()
	cmd.watch = c.watchClient()
	defer cmd.watch.end()
	r, err := cmd.spec.run(c, cmd)
	return c.answer(cmd, began, r, err)
}

// answer tells what others changed, and how a command ended.
func (c *session) answer(cmd *command, began time.Time, r reply, err error) error {
	if errors.Is(err, errGoOn) {
		return err
	}
	if c.w.Err() != nil {
		return c.w.Err()
	}
	if broken := (connError{}); errors.Is(err, errLogout) || errors.As(err, &broken) {
		c.srv.cfg.Metrics.Command(cmd.verb, "BYE", time.Since(began))
		return err
	}
	if err != nil && c.ctx.Err() != nil {
		return c.cutShort(cmd, began)
	}
	var bye *byeError
	if err != nil {
		if r, bye = replyTo(err); bye == nil && !known(r) {
			c.log().Error("imap command failed", "verb", cmd.verb, "err", err)
		}
	}
	if bye == nil && r.status != "BAD" && c.view != nil && c.ctx.Err() == nil {
		if bye = c.tellChanges(!cmd.spec.numbered); bye != nil && c.ctx.Err() != nil {
			return c.cutShort(cmd, began)
		}
	}
	if bye != nil {
		c.srv.cfg.Metrics.Command(cmd.verb, "BYE", time.Since(began))
		return c.bye(bye.code, bye.text)
	}
	if r.status != "" { // else the command has answered itself
		c.writeTagged(cmd.tag, &r)
	}
	c.srv.cfg.Metrics.Command(cmd.verb, r.status, time.Since(began))
	return c.countBad(r.status)
}

// cutShort ends a session in the middle of a command, between two responses.
func (c *session) cutShort(cmd *command, began time.Time) error {
	c.srv.cfg.Metrics.Command(cmd.verb, "BYE", time.Since(began))
	return context.Cause(c.ctx)
}
