package imapd

import (
	"errors"
	"slices"
	"strings"

	"mailnode/imapd/wire"
	"mailnode/storage"
	"mailnode/storage/mime"
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
	p := searchParser{cmd: cmd, view: c.view}
	if err := p.parseCharset(); err != nil {
		return reply{}, err
	}
	p.parse()
	cmd.End()
	if err := p.finish(); err != nil {
		return reply{}, err
	}
	if !p.scoped {
		p.scope = []span{{0, len(c.view.uids)}}
	}
	s := searching{session: c, keys: p.keys, needs: p.keys.needs(), values: make([]truth, len(p.keys)), sources: p.sources,
		turn: turn{of: c.srv.turns}}
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

// parseCharset reads the charset of the texts. Those of ASCII and UTF-8 are taken as they are.
func (p *searchParser) parseCharset() error {
	if !p.cmd.TryWord("CHARSET") {
		return nil
	}
	p.cmd.SP()
	charset := p.cmd.AString()
	p.cmd.SP()
	if p.cmd.Err() != nil || strings.EqualFold(charset, "UTF-8") || strings.EqualFold(charset, "US-ASCII") {
		return nil
	}
	if _, ok := mime.DecodeText(charset, nil); !ok {
		return no("BADCHARSET (US-ASCII UTF-8)", "unknown charset")
	}
	p.charset = charset
	return nil
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
	turn    turn
	keys    searchKeys
	needs   stage
	values  []truth // for searchKeys.match
	sources sources
	batch   []candidate
	found   []uint32 // indices in the view
	chunk   []byte   // of decoded text
	piece   []byte   // of a body
}

func (s *searching) run(scope []span) error {
	defer s.turn.give()
	if s.needs == readNothing {
		return s.runNumbers(scope)
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
			s.batch = append(s.batch, candidate{Message: storage.Message{UID: uid}, index: i})
			if len(s.batch) == searchBatch {
				if err := s.tryBatch(); err != nil {
					return err
				}
			}
		}
	}
	return s.tryBatch()
}

func (s *searching) collect(i int, m *storage.Message) (enough bool, err error) {
	m.Flags.Keywords = slices.Clone(m.Flags.Keywords)
	s.batch = append(s.batch, candidate{Message: *m, index: i, read: readRecord})
	return len(s.batch) == searchBatch, nil
}

// tryBatch decides about a batch: by the records first, then by the summaries, and opens only what is left.
func (s *searching) tryBatch() error {
	if err := s.turn.take(s.ctx); err != nil {
		return err
	}
	var open []*candidate
	for i := range s.batch {
		m := &s.batch[i]
		if m.verdict = s.keys.match(m, s.values); m.verdict == unknown {
			open = append(open, m)
		}
	}
	s.turn.give()
	for len(open) > 0 {
		n, err := s.tryGroup(open)
		if err != nil {
			return err
		}
		open = open[n:]
	}
	for i := range s.batch {
		if s.batch[i].verdict == isTrue {
			s.found = append(s.found, uint32(s.batch[i].index))
		}
	}
	s.batch = s.batch[:0]
	return nil
}

// tryGroup decides about the first n of open, as many as have summaries of summariesMax bytes together.
func (s *searching) tryGroup(open []*candidate) (n int, err error) {
	for size := 0; n < len(open) && size < summariesMax; n++ {
		more, err := s.readSummary(open[n])
		if err != nil {
			return 0, err
		}
		size += more
	}
	group := open[:n]
	if err := s.turn.take(s.ctx); err != nil {
		return 0, err
	}
	for _, m := range group {
		if m.summary != nil {
			s.begin()
			s.readFields(m, m.summary.ListHeaders)
			m.read = readSummary
			m.verdict = s.keys.match(m, s.values)
		}
	}
	s.turn.give()
	for _, m := range group {
		if m.verdict == unknown {
			if err := s.open(m); err != nil {
				return 0, err
			}
		}
		m.summary = nil
	}
	return n, nil
}

// readSummary reads a message's summary. A message that has gone meanwhile does not match.
func (s *searching) readSummary(m *candidate) (size int, err error) {
	raw, err := s.store.Summary(s.ctx, s.view.ref, m.UID)
	if isGone(err) {
		m.verdict = isFalse
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	summary, err := mime.ParseSummary(raw)
	if err != nil {
		return 0, storage.Errorf(storage.ErrCorrupt, "read summary of UID %d: %w", m.UID, err)
	}
	m.summary = &summary
	return len(raw), nil
}

// open decides about a message by its header and its body.
func (s *searching) open(m *candidate) error {
	body, err := s.store.OpenBody(s.ctx, s.view.ref, m.UID)
	if isGone(err) {
		m.verdict = isFalse
		return nil
	}
	if err != nil {
		return err
	}
	defer body.Close()
	if body.Size() != m.summary.Size() {
		return storage.Errorf(storage.ErrCorrupt, "open body of UID %d: %d bytes, its summary says %d", m.UID, body.Size(), m.summary.Size())
	}
	b := bodySearch{searching: s, m: m, body: body}
	err = b.run()
	s.turn.give()
	return err
}

// isGone reports whether an error means for certain that a message is gone.
func isGone(err error) bool {
	return errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrUnavailable)
}
