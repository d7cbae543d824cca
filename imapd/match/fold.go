// Package match looks for many words in a text of any length at once, each byte of it once, as people compare: without
// regard to case and to how a character was encoded.
package match

import (
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// segmentRunesMax bounds what is held back to bring combining marks into their order, as Unicode's Stream-Safe Text
// Format does (UAX #15 section 13).
const segmentRunesMax = 32

// foldedRunesMax bounds how many characters are remembered with their folded forms.
const foldedRunesMax = 4096

// folder brings text into the form in which it is compared: decomposed (NFKD), then fully case-folded, as the
// collation of RFC 5255 section 4.2 does it (RFC 5051), which lacks only ß. So é is found in both encodings, and by e;
// ﬁ is fi, Ａ is a, ß is ss, and ı is not i. Bytes that are not UTF-8 are taken for ISO 8859-1.
//
// A text may come in pieces.
type folder struct {
	runes   map[rune]folded
	held    []byte // a character that goes on in the next piece
	segment []byte // a character and the marks behind it: they may have to change places
	marks   int    // in segment
	caser   cases.Caser
}

// folded is what becomes of one character by itself.
type folded struct {
	text string
	mark bool // belongs to the character before it
}

// appendFolded appends what can be said of text already.
func (f *folder) appendFolded(dst, text []byte) []byte {
	for len(f.held) > 0 && len(text) > 0 && !utf8.FullRune(f.held) {
		f.held, text = append(f.held, text[0]), text[1:]
	}
	if len(f.held) > 0 {
		if !utf8.FullRune(f.held) {
			return dst
		}
		held := f.held
		f.held = nil
		dst = f.appendPiece(dst, held) // may hold its last bytes again
		return f.appendFolded(dst, text)
	}
	return f.appendPiece(dst, text)
}

func (f *folder) appendPiece(dst, text []byte) []byte {
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf {
			dst = f.appendSegment(dst)
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		if !utf8.FullRune(text[i:]) {
			f.held = append(f.held[:0], text[i:]...)
			return dst
		}
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			r = rune(text[i])
		}
		dst = f.appendRune(dst, r)
		i += n
	}
	return dst
}

// appendEnd appends what was held back at the end of a text.
func (f *folder) appendEnd(dst []byte) []byte {
	for _, c := range f.held {
		dst = f.appendRune(dst, rune(c))
	}
	f.held = f.held[:0]
	return f.appendSegment(dst)
}

func (f *folder) appendRune(dst []byte, r rune) []byte {
	if !f.fold(r).mark || f.marks >= segmentRunesMax {
		dst = f.appendSegment(dst)
	}
	if len(f.segment) > 0 {
		f.marks++
	}
	f.segment = utf8.AppendRune(f.segment, r)
	return dst
}

func (f *folder) appendSegment(dst []byte) []byte {
	if len(f.segment) == 0 {
		return dst
	}
	if f.marks == 0 {
		r, _ := utf8.DecodeRune(f.segment)
		dst = append(dst, f.fold(r).text...)
	} else {
		dst = append(dst, f.caser.Bytes(norm.NFKD.Bytes(f.segment))...)
	}
	f.segment, f.marks = f.segment[:0], 0
	return dst
}

func (f *folder) fold(r rune) folded {
	if known, ok := f.runes[r]; ok {
		return known
	}
	if f.runes == nil {
		f.runes, f.caser = map[rune]folded{}, cases.Fold()
	} else if len(f.runes) >= foldedRunesMax {
		clear(f.runes)
	}
	s := string(r)
	made := folded{f.caser.String(norm.NFKD.String(s)), norm.NFKD.PropertiesString(s).LeadCCC() != 0}
	f.runes[r] = made
	return made
}

// Fold returns a whole text in the form in which it is compared.
func Fold(text string) string {
	var f folder
	return string(f.appendEnd(f.appendFolded(nil, []byte(text))))
}
