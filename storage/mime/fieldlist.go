package mime

import (
	"slices"
	"strings"
)

// FieldNames numbers the names that some choices of fields name, so that a header is read once for all of them. The
// zero value is ready for use.
type FieldNames struct {
	numbers map[string]uint32 // by name, in lower case, from 1
	longest int               // bytes
}

// FieldChoice is a choice of header fields by their names.
type FieldChoice struct {
	numbers []uint32 // each once
	not     bool
}

// Choose chooses the fields named, in any case, or with not all but these.
func (n *FieldNames) Choose(names []string, not bool) *FieldChoice {
	if n.numbers == nil {
		n.numbers = map[string]uint32{}
	}
	c := &FieldChoice{not: not}
	for _, name := range names {
		name = strings.ToLower(name)
		number, known := n.numbers[name]
		if !known {
			number = uint32(len(n.numbers) + 1)
			n.numbers[name] = number
			n.longest = max(n.longest, len(name))
		}
		c.numbers = append(c.numbers, number)
	}
	slices.Sort(c.numbers)
	c.numbers = slices.Compact(c.numbers)
	return c
}

// FieldList is where the fields of one header lie that choices of the same FieldNames name. It is used again for the
// next header. What it does, it does in steps, so that a large header need not be read, or copied from, at once.
type FieldList struct {
	names  *FieldNames
	header []byte
	rest   []byte // of header, not read yet
	spans  []fieldSpan
	bytes  []int64 // by number
	total  int64
	lower  []byte

	// Of Copy:
	chosen []bool // by number
	choice *FieldChoice
	at     int   // in spans
	skip   int64 // bytes that are not copied
	left   []byte
	ended  bool // left is of the empty line
}

// fieldSpan is a stretch of fields with one number, 0 for all that nobody names, up to end.
type fieldSpan struct{ end, number uint32 }

const lineBreak = "\r\n"

// Begin begins to read a header, which must not change while the list is used.
func (l *FieldList) Begin(n *FieldNames, header []byte) {
	l.names, l.header, l.rest = n, header, header
	l.spans, l.total = l.spans[:0], 0
	l.bytes = slices.Grow(l.bytes[:0], len(n.numbers)+1)[:len(n.numbers)+1]
	clear(l.bytes)
}

// Read reads on for about so many bytes, and reports whether there are more.
func (l *FieldList) Read(bytes int) (more bool) {
	for from := len(l.rest); from-len(l.rest) < bytes; {
		field, rest, ok := nextField(l.rest)
		if !ok {
			l.rest = nil
			break
		}
		l.rest = rest
		number := uint32(0)
		if field.name != nil && len(field.name) <= l.names.longest {
			l.lower = appendLower(l.lower[:0], field.name)
			number = l.names.numbers[string(l.lower)]
		}
		l.add(number, field.raw)
	}
	return len(l.rest) > 0
}

func (l *FieldList) add(number uint32, raw []byte) {
	end := uint32(len(l.header) - len(l.rest))
	if last := len(l.spans) - 1; last >= 0 && l.spans[last].number == number {
		l.spans[last].end = end
	} else {
		l.spans = append(l.spans, fieldSpan{end, number})
	}
	n := int64(len(raw))
	if raw[len(raw)-1] != '\n' {
		n += int64(len(lineBreak)) // it is the last one
	}
	l.bytes[number] += n
	l.total += n
}

// Len returns how many bytes a choice has, with the empty line behind them, once the header is read.
func (l *FieldList) Len(c *FieldChoice) int64 {
	var n int64
	for _, number := range c.numbers {
		n += l.bytes[number]
	}
	if c.not {
		n = l.total - n
	}
	return n + int64(len(lineBreak))
}

// Choose lets Copy begin with a choice, skip bytes behind its beginning.
func (l *FieldList) Choose(c *FieldChoice, skip int64) {
	if n := len(l.names.numbers) + 1; len(l.chosen) < n {
		l.chosen = append(l.chosen, make([]bool, n-len(l.chosen))...)
	}
	if l.choice != nil {
		l.mark(l.choice, false)
	}
	l.mark(c, true)
	l.choice, l.at, l.skip, l.left, l.ended = c, 0, skip, nil, false
}

func (l *FieldList) mark(c *FieldChoice, chosen bool) {
	for _, number := range c.numbers {
		l.chosen[number] = chosen
	}
}

// Copy copies on into dst: the lines of the fields chosen, in the order of the message, then the empty line. It looks
// at no more than spansMax stretches of fields; done says that there is no more.
func (l *FieldList) Copy(dst []byte, spansMax int) (n int, done bool) {
	for {
		k := copy(dst[n:], l.left)
		n, l.left = n+k, l.left[k:]
		switch {
		case len(l.left) > 0:
			return n, false
		case l.ended:
			return n, true
		case spansMax == 0:
			return n, false
		}
		spansMax--
		l.next()
	}
}

// next goes to the next stretch.
func (l *FieldList) next() {
	if l.at == len(l.spans) {
		l.ended = true
		if n := len(l.spans); n > 0 && l.chooses(l.spans[n-1]) && l.header[l.spans[n-1].end-1] != '\n' {
			l.take([]byte(lineBreak + lineBreak))
			return
		}
		l.take([]byte(lineBreak))
		return
	}
	from := uint32(0)
	if l.at > 0 {
		from = l.spans[l.at-1].end
	}
	span := l.spans[l.at]
	if l.at++; l.chooses(span) {
		l.take(l.header[from:span.end])
	}
}

func (l *FieldList) chooses(s fieldSpan) bool { return l.chosen[s.number] != l.choice.not }

// take makes lines what is copied next, without what is skipped of them.
func (l *FieldList) take(lines []byte) {
	skip := min(l.skip, int64(len(lines)))
	l.skip -= skip
	l.left = lines[skip:]
}
