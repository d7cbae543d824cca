package imapd

import (
	"slices"
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
	names, err := c.folders(l.SelectSubscribed || l.ReturnSubscribed)
	if err != nil {
		return reply{}, err
	}
	for i := range names {
		f := &names[i]
		if !matchAny(f.name, l.reference, l.patterns) {
			continue
		}
		if chosen, childInfo := l.selects(f); chosen || childInfo {
			c.writeFolder("LIST", f, l, childInfo)
			if l.ReturnStatus != nil && f.mbox != nil {
				c.writeStatus(f.mbox, l.ReturnStatus)
			}
			if err := c.w.FlushIfFull(); err != nil {
				return reply{}, err
			}
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

// folder is a name that LIST may show.
type folder struct {
	name       string
	mbox       *storage.Mailbox // nil: no such mailbox
	children   bool
	subscribed bool
	// below says which kinds of mailbox RECURSIVEMATCH finds under this one.
	belowSubscribed, belowSpecialUse bool
}

// folders gives, sorted, the mailboxes, the levels above them that are no
// mailboxes, and if wanted the subscribed names that exist no more.
func (c *session) folders(subscriptions bool) ([]folder, error) {
	boxes, err := c.store.Mailboxes(c.ctx, c.account)
	if err != nil {
		return nil, err
	}
	var subscribed []string
	if subscriptions {
		if subscribed, err = c.store.Subscriptions(c.ctx, c.account); err != nil {
			return nil, err
		}
	}
	byName := make(map[string]*folder, len(boxes)+len(subscribed))
	get := func(name string) *folder {
		f := byName[name]
		if f == nil {
			f = &folder{name: name}
			byName[name] = f
		}
		return f
	}
	for i := range boxes {
		f := get(boxes[i].Name)
		f.mbox = &boxes[i]
		for p := parent(f.name); p != ""; p = parent(p) {
			up := get(p)
			up.children = true
			up.belowSpecialUse = up.belowSpecialUse || f.mbox.SpecialUse != ""
		}
	}
	for _, name := range subscribed {
		get(name).subscribed = true
		for p := parent(name); p != ""; p = parent(p) {
			get(p).belowSubscribed = true
		}
	}
	out := make([]folder, 0, len(byName))
	for _, f := range byName {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b folder) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

func parent(name string) string {
	return name[:max(strings.LastIndexByte(name, storage.Separator), 0)]
}

// selects says whether a name is listed for itself, and whether only or also for
// what is below it (RFC 5258, section 3.5: CHILDINFO).
func (l *listing) selects(f *folder) (chosen, childInfo bool) {
	if !l.SelectSubscribed && !l.SelectSpecialUse {
		return f.mbox != nil || f.children, false
	}
	chosen = (!l.SelectSubscribed || f.subscribed) && (!l.SelectSpecialUse || f.mbox != nil && f.mbox.SpecialUse != "")
	if l.SelectRecursiveMatch {
		childInfo = l.SelectSubscribed && f.belowSubscribed || l.SelectSpecialUse && !l.SelectSubscribed && f.belowSpecialUse
	}
	return chosen, childInfo
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
	if (l.SelectSubscribed || l.ReturnSubscribed) && f.subscribed {
		attrs = append(attrs, `\Subscribed`)
	}
	if f.mbox != nil && f.mbox.SpecialUse != "" {
		attrs = append(attrs, `\`+string(f.mbox.SpecialUse))
	}
	c.w.Str("* ").Str(verb).Byte(' ').Words(attrs).Str(` "/" `).Mailbox(f.name)
	if childInfo {
		var kind string
		if l.SelectSubscribed {
			kind = "SUBSCRIBED"
		} else {
			kind = "SPECIAL-USE"
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
	names, err := c.folders(true)
	if err != nil {
		return reply{}, err
	}
	// Section 6.3.9: "%" shows a level that is not subscribed, as \Noselect, when
	// something below it is.
	levels := strings.HasSuffix(pattern, "%")
	for i := range names {
		f := &names[i]
		if !matchAny(f.name, reference, []string{pattern}) {
			continue
		}
		switch {
		case f.subscribed && f.mbox == nil:
			c.w.Str(`* LSUB () "/" `).Mailbox(f.name).CRLF()
		case f.subscribed:
			c.writeFolder("LSUB", f, &listing{}, false)
		case levels && f.belowSubscribed:
			c.w.Str(`* LSUB (\Noselect) "/" `).Mailbox(f.name).CRLF()
		}
		if err := c.w.FlushIfFull(); err != nil {
			return reply{}, err
		}
	}
	return ok("LSUB completed")
}

// matchAny says whether a name matches a reference with one of the patterns.
func matchAny(name, reference string, patterns []string) bool {
	for _, p := range patterns {
		// Section 6.3.8: the reference is put before the pattern; one that begins
		// with the separator stands alone.
		if strings.HasPrefix(p, "/") {
			p = p[1:]
		} else {
			p = reference + p
		}
		if len(p) >= 5 && strings.EqualFold(p[:5], "INBOX") && (len(p) == 5 || p[5] == storage.Separator) {
			p = "INBOX" + p[5:]
		}
		if matchPattern(name, p) || name == "INBOX" && matchPattern("inbox", strings.ToLower(p)) {
			return true
		}
	}
	return false
}

// matchPattern matches LIST's wildcards in time len(name)×len(pattern):
// backtracking would let a pattern of many stars run for hours.
func matchPattern(name, pattern string) bool {
	// can[i]: pattern so far matches name[:i].
	can := make([]bool, len(name)+1)
	can[0] = true
	for p := range len(pattern) {
		switch w := pattern[p]; w {
		case '*', '%':
			for i := 1; i <= len(name); i++ {
				if can[i-1] && (w == '*' || name[i-1] != storage.Separator) {
					can[i] = true
				}
			}
		default:
			for i := len(name); i > 0; i-- {
				can[i] = can[i-1] && name[i-1] == w
			}
			can[0] = false
		}
	}
	return can[len(name)]
}
