package imapd

import (
	"errors"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailnode/storage"
)

// listing is one LIST or LSUB.
type listing struct {
	imap.ListOptions
	extended  bool // RFC 5258's syntax was used
	reference string
	patterns  []string
}

// maxPatterns bounds the patterns of one LIST.
const maxPatterns = 100

// list is LIST (RFC 3501, section 6.3.8; RFC 5258; RFC 5819; RFC 6154).
func (c *session) list(cmd *command) (reply, error) {
	l, err := parseList(cmd)
	if err != nil {
		return reply{}, err
	}
	if !l.extended && len(l.patterns) == 1 && l.patterns[0] == "" {
		// RFC 3501, section 6.3.8: asks for the separator.
		c.w.Str(`* LIST (\Noselect) "/" ""`).CRLF()
		return ok("LIST completed")
	}
	walk, err := c.walkNames(l.reference, l.patterns)
	if err != nil {
		return reply{}, err
	}
	for n, err := range walk.names() {
		if err == nil {
			err = c.listName(l, n, walk.match)
		}
		if err == nil {
			err = c.w.FlushIfFull()
		}
		if err != nil {
			return reply{}, err
		}
	}
	return ok("LIST completed")
}

func parseList(cmd *command) (*listing, error) {
	l := &listing{}
	cmd.SP()
	if cmd.Peek() == '(' {
		l.extended = true
		recursive := false
		cmd.List(func() {
			switch o := cmd.Keyword(); o {
			case "SUBSCRIBED":
				l.SelectSubscribed = true
			case "REMOTE": // there are none
			case "RECURSIVEMATCH":
				recursive = true
			case "SPECIAL-USE":
				l.SelectSpecialUse = true
			default:
				cmd.Fail("a LIST selection option, not %s", o)
			}
		})
		if recursive && !l.SelectSubscribed && !l.SelectSpecialUse {
			cmd.Fail("another selection option beside RECURSIVEMATCH") // RFC 5258, section 3.1
		}
		l.SelectRecursiveMatch = recursive
		cmd.SP()
	}
	l.reference = cmd.Mailbox()
	cmd.SP()
	if cmd.Peek() == '(' {
		l.extended = true
		cmd.List(func() { l.patterns = append(l.patterns, cmd.ListMailbox()) })
		if len(l.patterns) == 0 || len(l.patterns) > maxPatterns {
			cmd.Fail("1 to %d patterns", maxPatterns)
		}
	} else {
		l.patterns = []string{cmd.ListMailbox()}
	}
	if cmd.Try(' ') {
		l.extended = true
		if !cmd.TryWord("RETURN") {
			cmd.Fail("RETURN")
		}
		cmd.SP()
		cmd.List(func() { l.returnOption(cmd) })
	}
	cmd.End()
	return l, cmd.Err()
}

func (l *listing) returnOption(cmd *command) {
	switch o := cmd.Keyword(); o {
	case "SUBSCRIBED":
		l.ReturnSubscribed = true
	case "CHILDREN":
		l.ReturnChildren = true
	case "SPECIAL-USE":
		l.ReturnSpecialUse = true
	case "STATUS":
		cmd.SP()
		l.ReturnStatus = parseStatusItems(cmd)
	default:
		cmd.Fail("a LIST return option, not %s", o)
	}
}

// folder is a name that LIST shows.
type folder struct {
	listed
	mbox *storage.Mailbox // nil: no such mailbox
}

// listName answers for a name that a pattern matches, if it is to be listed: for
// itself, or with RECURSIVEMATCH for what is below it (RFC 5258, section 3.3).
func (c *session) listName(l *listing, n listed, match *matcher) error {
	f := folder{listed: n}
	chosen := n.Mailbox != 0 || n.children
	below := storage.NameEntry{}
	if l.SelectSubscribed || l.SelectSpecialUse {
		var err error
		if chosen, err = c.meets(l, n.NameEntry); err != nil {
			return err
		}
		if l.SelectRecursiveMatch {
			// Else a matching child is listed itself: the parent would be redundant.
			beyond := match
			if chosen {
				beyond = nil
			}
			if below, err = c.findBelow(l, n.Name, beyond); err != nil {
				return err
			}
		}
	}
	childInfo := below.Name != ""
	if !chosen && !childInfo {
		return nil
	}
	if n.Mailbox != 0 {
		mbox, err := c.store.MailboxByID(c.ctx, storage.Ref{Account: c.account, Mailbox: n.Mailbox})
		if goneMeanwhile(err) {
			return nil
		}
		if err != nil {
			return err
		}
		f.mbox = &mbox
	}
	c.writeFolder("LIST", &f, l, childInfo)
	if l.ReturnStatus != nil && f.mbox != nil {
		c.writeStatus(f.mbox, l.ReturnStatus)
	}
	return nil
}

// meets reports whether a name satisfies LIST's selection options.
func (c *session) meets(l *listing, n storage.NameEntry) (bool, error) {
	if l.SelectSubscribed && !n.Subscribed {
		return false, nil
	}
	if !l.SelectSpecialUse || n.Mailbox == 0 {
		return !l.SelectSpecialUse, nil
	}
	mbox, err := c.store.MailboxByID(c.ctx, storage.Ref{Account: c.account, Mailbox: n.Mailbox})
	if goneMeanwhile(err) {
		return false, nil
	}
	return mbox.SpecialUse != "", err
}

// findBelow returns the first name below another that satisfies the selection
// options, and that match, when given, does not match.
func (c *session) findBelow(l *listing, above string, match *matcher) (found storage.NameEntry, err error) {
	err = c.store.Names(c.ctx, c.account, above+"/", "", func(n storage.NameEntry) error {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		meets, err := c.meets(l, n)
		if err != nil || !meets || match != nil && match.match(n.Name) {
			return err
		}
		found = n
		return errPause
	})
	if errors.Is(err, errPause) {
		err = nil
	}
	return found, err
}

// goneMeanwhile reports whether what a name led to has been deleted since.
func goneMeanwhile(err error) bool {
	return errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrUnavailable)
}

func (c *session) writeFolder(verb string, f *folder, l *listing, childInfo bool) {
	var attrs []string
	switch {
	case f.mbox == nil && l.extended:
		attrs = append(attrs, `\NonExistent`)
	case f.mbox == nil:
		attrs = append(attrs, `\Noselect`)
	}
	// RFC 3348: worth saying each time; it costs nothing here.
	if f.children {
		attrs = append(attrs, `\HasChildren`)
	} else {
		attrs = append(attrs, `\HasNoChildren`)
	}
	if (l.SelectSubscribed || l.ReturnSubscribed) && f.Subscribed {
		attrs = append(attrs, `\Subscribed`)
	}
	if f.mbox != nil && f.mbox.SpecialUse != "" {
		attrs = append(attrs, `\`+string(f.mbox.SpecialUse))
	}
	c.w.Str("* ").Str(verb).Byte(' ').Words(attrs).Str(` "/" `).Mailbox(f.Name)
	if childInfo {
		kind := "SPECIAL-USE"
		if l.SelectSubscribed {
			kind = "SUBSCRIBED"
		}
		c.w.Str(` ("CHILDINFO" ("`).Str(kind).Str(`"))`)
	}
	c.w.CRLF()
}

// lsub is LSUB (RFC 3501, section 6.3.9).
func (c *session) lsub(cmd *command) (reply, error) {
	cmd.SP()
	reference := cmd.Mailbox()
	cmd.SP()
	pattern := cmd.ListMailbox()
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	walk, err := c.walkNames(reference, []string{pattern})
	if err != nil {
		return reply{}, err
	}
	// Section 6.3.9: "%" shows a level that is not subscribed, as \Noselect, when
	// something below it is.
	levels := strings.HasSuffix(pattern, "%")
	for n, err := range walk.names() {
		if err == nil {
			err = c.lsubName(n, levels)
		}
		if err == nil {
			err = c.w.FlushIfFull()
		}
		if err != nil {
			return reply{}, err
		}
	}
	return ok("LSUB completed")
}

func (c *session) lsubName(n listed, levels bool) error {
	subscribed := &listing{}
	subscribed.SelectSubscribed = true
	switch {
	case n.Subscribed && n.Mailbox == 0:
		c.w.Str(`* LSUB () "/" `).Mailbox(n.Name).CRLF()
	case n.Subscribed:
		mbox, err := c.store.MailboxByID(c.ctx, storage.Ref{Account: c.account, Mailbox: n.Mailbox})
		if err != nil && !goneMeanwhile(err) {
			return err
		}
		c.writeFolder("LSUB", &folder{n, &mbox}, &listing{}, false)
	case levels:
		below, err := c.findBelow(subscribed, n.Name, nil)
		if err != nil || below.Name == "" {
			return err
		}
		c.w.Str(`* LSUB (\Noselect) "/" `).Mailbox(n.Name).CRLF()
	}
	return nil
}
