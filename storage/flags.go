package storage

import (
	"slices"
	"strings"
)

// SystemFlags is a set of RFC 3501 system flags.
type SystemFlags uint8

// The system flags that are stored; \Recent is not.
const (
	Seen SystemFlags = 1 << iota
	Answered
	Flagged
	Deleted
	Draft
)

// systemFlagNames is in the order in which flags are shown.
var systemFlagNames = []struct {
	flag SystemFlags
	name string
}{
	{Answered, `\Answered`}, {Flagged, `\Flagged`}, {Deleted, `\Deleted`}, {Seen, `\Seen`}, {Draft, `\Draft`},
}

// Flags is a message's flags: a value, never changed in place.
type Flags struct {
	System   SystemFlags
	Keywords []string // sorted without regard to case, each once
}

// ParseFlags makes Flags of IMAP flag names in any case. \Recent is dropped;
// any other unknown name that starts with a backslash is ErrInvalid.
func ParseFlags(names []string) (Flags, error) {
	var f Flags
next:
	for _, n := range names {
		if strings.HasPrefix(n, `\`) {
			for _, s := range systemFlagNames {
				if strings.EqualFold(n, s.name) {
					f.System |= s.flag
					continue next
				}
			}
			if strings.EqualFold(n, `\Recent`) {
				continue
			}
			return Flags{}, Errorf(ErrInvalid, "set flag %q: no such system flag", n)
		}
		if err := checkKeyword(n); err != nil {
			return Flags{}, err
		}
		f.Keywords = append(f.Keywords, n)
	}
	f.Keywords = sortKeywords(f.Keywords) // before they are counted: each once
	return f.Canonical()
}

// checkKeyword accepts atoms without resp-specials (RFC 3501, section 9).
func checkKeyword(k string) error {
	if k == "" || len(k) > MaxKeywordBytes {
		return Errorf(ErrInvalid, "set flag: a keyword has 1 to %d bytes", MaxKeywordBytes)
	}
	for i := range len(k) {
		if c := k[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`(){%*"\]`, c) >= 0 {
			return Errorf(ErrInvalid, "set flag %q: not an atom", k)
		}
	}
	return nil
}

func compareFold(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) }

func sortKeywords(k []string) []string {
	slices.SortStableFunc(k, compareFold)
	return slices.CompactFunc(k, func(a, b string) bool { return compareFold(a, b) == 0 })
}

// Names returns the flags as IMAP names.
func (f Flags) Names() []string {
	out := make([]string, 0, 5+len(f.Keywords))
	for _, s := range systemFlagNames {
		if f.System&s.flag != 0 {
			out = append(out, s.name)
		}
	}
	return append(out, f.Keywords...)
}

// Has reports whether all of the system flags are set.
func (f Flags) Has(s SystemFlags) bool { return f.System&s == s }

// HasKeyword compares without regard to case.
func (f Flags) HasKeyword(k string) bool {
	_, ok := slices.BinarySearchFunc(f.Keywords, k, compareFold)
	return ok
}

// Equal reports whether two sets are the same.
func (f Flags) Equal(g Flags) bool {
	return f.System == g.System && slices.EqualFunc(f.Keywords, g.Keywords, strings.EqualFold)
}

// Apply returns the flags after a change; f stays as it is. The result may hold
// more than MaxKeywordsPerMessage; the Store refuses that.
func (f Flags) Apply(c FlagChange) Flags {
	switch c.Op {
	case FlagsAdd:
		k := append(append([]string(nil), f.Keywords...), c.Flags.Keywords...)
		return Flags{System: f.System | c.Flags.System, Keywords: sortKeywords(k)}
	case FlagsRemove:
		out := Flags{System: f.System &^ c.Flags.System}
		for _, k := range f.Keywords {
			if !c.Flags.HasKeyword(k) {
				out.Keywords = append(out.Keywords, k)
			}
		}
		return out
	default:
		return c.Flags
	}
}
