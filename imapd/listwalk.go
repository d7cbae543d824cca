package imapd

import (
	"errors"
	"iter"
	"strings"

	"mailnode/storage"
)

// listPage is how many names LIST holds at once. No view of the store is open
// while they are written.
const listPage = 256

// listed is a name that a pattern matches: a mailbox, a subscribed name, or a
// level above one that is neither.
type listed struct {
	storage.NameEntry
	children bool // mailboxes are below it
}

// nameWalk goes through an account's names in order, a page at a time.
type nameWalk struct {
	*session
	match *matcher
	from  string // where the next page begins
	page  []listed
	open  []opened // by length: those before the present name that it begins with
}

// opened is a name, and where in the page it is; -1 when it is not.
type opened struct {
	name string
	at   int
}

func (c *session) walkNames(reference string, patterns []string) (*nameWalk, error) {
	m, err := newMatcher(reference, patterns)
	return &nameWalk{session: c, match: m}, err
}

// names yields the names that match; an error is the last.
func (w *nameWalk) names() iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		for more := true; more; {
			var err error
			if more, err = w.readPage(); err != nil {
				yield(listed{}, err)
				return
			}
			for _, n := range w.page {
				if err := w.ctx.Err(); err != nil {
					yield(listed{}, err)
					return
				}
				if !yield(n, nil) {
					return
				}
			}
		}
	}
}

// readPage reads the next page and reports whether more may follow.
func (w *nameWalk) readPage() (more bool, err error) {
	w.page = w.page[:0]
	for i := range w.open {
		w.open[i].at = -1
	}
	last := ""
	err = w.store.Names(w.ctx, w.account, "", w.from, func(n storage.NameEntry) error {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		w.enter(n)
		last = n.Name
		if len(w.page) >= listPage {
			return errPause
		}
		return nil
	})
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, errPause) {
		return false, err
	}
	w.from = last + "\x00"
	for i := range w.page {
		p := &w.page[i]
		// Names below it may still come: all of them are less than this.
		if !p.children && last < p.Name+string(storage.Separator+1) {
			if p.children, err = w.hasChildren(p.Name); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// enter takes a name in, and before it the levels above it that are no names.
func (w *nameWalk) enter(n storage.NameEntry) {
	for len(w.open) > 0 && !strings.HasPrefix(n.Name, w.open[len(w.open)-1].name) {
		w.open = w.open[:len(w.open)-1]
	}
	i := 0
	for at := strings.IndexByte(n.Name, storage.Separator); at >= 0; {
		for i < len(w.open) && len(w.open[i].name) < at {
			i++
		}
		if i == len(w.open) || len(w.open[i].name) > at {
			w.add(storage.NameEntry{Name: n.Name[:at]})
			i = len(w.open) - 1
		}
		if w.open[i].at >= 0 && n.Mailbox != 0 {
			w.page[w.open[i].at].children = true
		}
		next := strings.IndexByte(n.Name[at+1:], storage.Separator)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	w.add(n)
}

func (w *nameWalk) add(n storage.NameEntry) {
	at := -1
	if w.match.match(n.Name) {
		at = len(w.page)
		w.page = append(w.page, listed{NameEntry: n})
	}
	w.open = append(w.open, opened{n.Name, at})
}

func (w *nameWalk) hasChildren(above string) (found bool, err error) {
	err = w.store.Names(w.ctx, w.account, above+string(storage.Separator), "", func(n storage.NameEntry) error {
		if found = n.Mailbox != 0; found {
			return errPause
		}
		return w.ctx.Err()
	})
	if errors.Is(err, errPause) {
		err = nil
	}
	return found, err
}
