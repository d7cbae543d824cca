package imapd

import (
	"mailnode/imapd/match"
	"mailnode/storage/mime"
)

// truth is what is known of a key for one message. "And" is the least of its members, "or" the greatest (Kleene's
// logic), so that a group is decided as soon as it can be.
type truth uint8

const (
	isFalse truth = iota
	unknown
	isTrue
)

func truthOf(b bool) truth {
	if b {
		return isTrue
	}
	return isFalse
}

func (t truth) not() truth { return isTrue - t }

// stage is how far a message has been read. Each stage costs more than the one before.
type stage uint8

const (
	readNothing stage = iota // its numbers
	readRecord               // flags, dates, size
	readSummary              // the fields that are kept for lists
	readHeader
	readBody
)

// searchKey is a search key, or a group of them.
type searchKey struct {
	match   func(m *candidate) truth // nil for a group
	needs   stage                    // where match knows for certain
	parent  int                      // the group that it is in, which comes later in the list
	either  bool                     // of a group: one member is enough
	negated bool
}

// searchKeys is a whole search: members before their groups, the outermost last. A list is gone through in a loop, so
// that no depth of nesting needs more stack.
type searchKeys []searchKey

// needs returns the stage in which every key is decided.
func (k searchKeys) needs() stage {
	most := readNothing
	for i := range k {
		most = max(most, k[i].needs)
	}
	return most
}

// match decides about a message as far as it has been read. values is for its use, as long as k.
func (k searchKeys) match(m *candidate, values []truth) truth {
	for i := range k {
		values[i] = truthOf(!k[i].either)
	}
	last := len(k) - 1
	for i := range k {
		key := &k[i]
		if i < last && values[key.parent] == truthOf(k[key.parent].either) {
			continue // its group is decided
		}
		value := values[i]
		if key.match != nil {
			value = key.match(m)
		}
		if key.negated {
			value = value.not()
		}
		switch {
		case i == last:
			return value
		case k[key.parent].either:
			values[key.parent] = max(values[key.parent], value)
		default:
			values[key.parent] = min(values[key.parent], value)
		}
	}
	return isTrue // without any key
}

// source is a text of a message with the words that are looked for in it.
type source struct {
	match.Words
	finder    *match.Finder
	readAt    stage // all of it has been read then
	inSummary bool  // a summary whose list of fields is whole has all of it, too
}

// sources are the texts that a search looks at.
type sources struct {
	fields map[string]*source // by lower-case name
	header *source            // for TEXT: the headers of the message and its parts; nil: not looked at
	body   *source            // for BODY and TEXT; nil: not looked at
}

func (s *sources) field(name string) *source {
	f := s.fields[name]
	if f == nil {
		f = &source{readAt: readHeader, inSummary: mime.CoversHeader([]string{name})}
		if s.fields == nil {
			s.fields = map[string]*source{}
		}
		s.fields[name] = f
	}
	return f
}

// each calls fn with every source.
func (s *sources) each(fn func(*source)) {
	for _, f := range s.fields {
		fn(f)
	}
	if s.header != nil {
		fn(s.header)
	}
	if s.body != nil {
		fn(s.body)
	}
}

// has reports whether a word is in a source of the message at hand.
func (src *source) has(m *candidate, word int) truth {
	switch {
	case m.read < readSummary:
		return unknown // the finder still has the message before
	case src.finder.Found(word):
		return isTrue
	case m.read >= src.readAt || src.inSummary && m.listed():
		return isFalse
	}
	return unknown
}
