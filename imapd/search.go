package imapd

import (
	"errors"
	"slices"
	"strings"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// searchBatch is how many records are read before bodies are looked at: no scan
// is held open meanwhile.
const searchBatch = 256

// searchReturn is RETURN's options (RFC 4731, section 3.1).
type searchReturn struct{ given, min, max, all, count bool }

// search is SEARCH and UID SEARCH (RFC 3501, section 6.4.4; RFC 4731).
func (c *session) search(cmd *command) (reply, error) {
	cmd.SP()
	ret := parseSearchReturn(cmd)
	if cmd.TryWord("CHARSET") {
		cmd.SP()
		charset := cmd.AString()
		cmd.SP()
		if cmd.Err() == nil && !strings.EqualFold(charset, "UTF-8") && !strings.EqualFold(charset, "US-ASCII") {
			return reply{}, no("BADCHARSET (US-ASCII UTF-8)", "unknown charset")
		}
	}
	p := searchParser{cmd: cmd, view: c.view}
	key := p.all(0)
	cmd.End()
	if err := errors.Join(cmd.Err(), p.failed); err != nil {
		return reply{}, err
	}
	if !p.scoped {
		p.scope = []span{{0, len(c.view.uids)}}
	}
	s := searching{session: c, key: key}
	if len(c.view.uids) > 0 {
		if err := s.run(p.scope); err != nil {
			return reply{}, err
		}
	}
	nums := s.found
	for i, index := range nums {
		if cmd.isUID() {
			nums[i] = uint32(c.view.uids[index])
		} else {
			nums[i] = index + 1
		}
	}
	if ret.given {
		c.writeESearch(cmd, ret, nums)
		return ok(cmd.verb + " completed")
	}
	c.w.Str("* SEARCH")
	for _, n := range nums {
		c.w.Byte(' ').Uint(uint64(n))
	}
	c.w.CRLF()
	return ok(cmd.verb + " completed")
}

func parseSearchReturn(cmd *command) (ret searchReturn) {
	if !cmd.TryWord("RETURN") {
		return ret
	}
	cmd.SP()
	ret.given = true
	cmd.List(func() {
		switch o := cmd.Keyword(); o {
		case "MIN":
			ret.min = true
		case "MAX":
			ret.max = true
		case "ALL":
			ret.all = true
		case "COUNT":
			ret.count = true
		default:
			cmd.Fail("a SEARCH return option, not %s", o)
		}
	})
	cmd.SP()
	if !ret.min && !ret.max && !ret.count {
		ret.all = true // RFC 4731, section 3.1: an empty list means ALL
	}
	return ret
}

func (c *session) writeESearch(cmd *command, ret searchReturn, nums []uint32) {
	c.w.Str("* ESEARCH (TAG ").String(cmd.tag).Byte(')')
	if cmd.isUID() {
		c.w.Str(" UID")
	}
	if len(nums) > 0 {
		if ret.min {
			c.w.Str(" MIN ").Uint(uint64(nums[0]))
		}
		if ret.max {
			c.w.Str(" MAX ").Uint(uint64(nums[len(nums)-1]))
		}
		if ret.all {
			c.w.Str(" ALL ").Append(func(dst []byte) []byte { return wire.AppendNums(dst, nums) })
		}
	}
	if ret.count {
		c.w.Str(" COUNT ").Uint(uint64(len(nums)))
	}
	c.w.CRLF()
}

// searching is one SEARCH under way.
type searching struct {
	*session
	key   searchKey
	batch []candidate
	found []uint32 // indices in the view
}

func (s *searching) run(scope []span) error {
	if s.key.cost == costNothing {
		return s.runNumbers(scope)
	}
	if s.key.cost == costRecord {
		_, err := s.eachMessage(scope, func(i int, m *storage.Message) (bool, error) {
			return false, s.try(&candidate{session: s.session, Message: *m, index: i})
		}, func() error { return nil })
		return err
	}
	_, err := s.eachMessage(scope, s.collect, s.tryBatch)
	return err
}

// runNumbers needs no store: the view knows what exists.
func (s *searching) runNumbers(scope []span) error {
	for _, sp := range scope {
		for i := sp.lo; i < sp.hi; i++ {
			uid := s.view.uids[i]
			if _, gone := slices.BinarySearch(s.view.gone, uid); gone {
				continue
			}
			if err := s.try(&candidate{session: s.session, Message: storage.Message{UID: uid}, index: i}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *searching) collect(i int, m *storage.Message) (enough bool, err error) {
	m.Flags.Keywords = slices.Clone(m.Flags.Keywords)
	s.batch = append(s.batch, candidate{session: s.session, Message: *m, index: i})
	return len(s.batch) == searchBatch, nil
}

func (s *searching) tryBatch() error {
	for i := range s.batch {
		if err := s.try(&s.batch[i]); err != nil {
			return err
		}
	}
	s.batch = s.batch[:0]
	return s.ctx.Err()
}

// try matches one message. One that has gone meanwhile does not match.
func (s *searching) try(m *candidate) error {
	defer m.close()
	matches, err := s.key.match(m)
	if errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrUnavailable) {
		return nil
	}
	if matches && err == nil {
		s.found = append(s.found, uint32(m.index))
	}
	return err
}
