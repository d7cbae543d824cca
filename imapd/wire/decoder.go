package wire

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// Decoder parses the arguments of one framed command. The first error sticks:
// later calls do nothing and return zero values, so a caller checks Err once.
//
// Where one space may stand there may be more, and spaces before ")", behind
// "(" and before the end of the command separate nothing: they are passed over,
// in every command alike. RFC 3501, section 9, has single spaces only; clients
// send others, and Dovecot takes them.
type Decoder struct {
	text []byte // lines with CRLF, literals in place
	pos  int
	err  error
	name error // a mailbox name that is none; the parsing goes on behind it
}

// NewDecoder parses text, which must be framed: each literal's bytes are there.
func NewDecoder(text []byte) *Decoder { return &Decoder{text: text} }

// SyntaxError is what a Decoder finds. Its text is fit to be sent.
type SyntaxError struct{ Want string }

func (e *SyntaxError) Error() string { return "parse command: want " + e.Want }

// NameError is a string where a mailbox name must be, but not modified UTF-7: the
// command is well-formed, and its answer is NO.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	return fmt.Sprintf("parse mailbox name %q: not modified UTF-7", e.Name)
}

// Fail makes the Decoder fail unless it has failed already.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = &SyntaxError{Want: fmt.Sprintf(format, args...)}
	}
}

// Failed reports whether there was an error of syntax.
func (d *Decoder) Failed() bool { return d.err != nil }

// Err returns the first error of syntax, or else of a name.
func (d *Decoder) Err() error {
	if d.err != nil {
		return d.err
	}
	return d.name
}

// Peek returns the next byte, 0 at the end or after an error.
func (d *Decoder) Peek() byte {
	if d.err != nil {
		return 0
	}
	d.settle()
	if d.pos >= len(d.text) {
		return 0
	}
	return d.text[d.pos]
}

// settle passes over spaces that separate nothing.
func (d *Decoder) settle() {
	if end := d.spaces(); end > d.pos && (end == len(d.text) || d.text[end] == '\r' || d.text[end] == ')') {
		d.pos = end
	}
}

// spaces returns where the spaces that come next end.
func (d *Decoder) spaces() int {
	end := d.pos
	for end < len(d.text) && d.text[end] == ' ' {
		end++
	}
	return end
}

// AtEnd reports whether only the line's end is left.
func (d *Decoder) AtEnd() bool {
	c := d.Peek()
	return c == 0 && d.pos >= len(d.text) || c == '\r'
}

// Try takes c when it comes next; of spaces, all.
func (d *Decoder) Try(c byte) bool {
	if d.Peek() != c || d.err != nil || d.pos >= len(d.text) {
		return false
	}
	d.pos++
	if c == ' ' || c == '(' {
		d.pos = d.spaces()
	}
	return true
}

// Expect takes c or fails.
func (d *Decoder) Expect(c byte) {
	if d.err == nil && !d.Try(c) {
		d.Fail("%q", c)
	}
}

// SP takes the space before an argument or fails.
func (d *Decoder) SP() {
	if d.err == nil && !d.Try(' ') {
		d.Fail("a space")
	}
}

// End takes the line's end or fails.
func (d *Decoder) End() {
	if d.err == nil && !d.AtEnd() {
		d.Fail("the end of the command")
	}
}

// atomSpecials is RFC 3501's atom-specials without CTL and 8-bit.
const atomSpecials = `(){ %*"\]`

// IsAtomChar reports whether c may stand in an atom (RFC 3501, section 9).
func IsAtomChar(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(atomSpecials, c) < 0
}

func (d *Decoder) while(ok func(byte) bool) []byte {
	if d.err != nil {
		return nil
	}
	start := d.pos
	for d.pos < len(d.text) && ok(d.text[d.pos]) {
		d.pos++
	}
	return d.text[start:d.pos]
}

// Atom takes an atom.
func (d *Decoder) Atom() string {
	a := d.while(IsAtomChar)
	if len(a) == 0 {
		d.Fail("an atom")
	}
	return string(a)
}

// Keyword takes an atom and returns it in capitals: the name of an item.
func (d *Decoder) Keyword() string { return strings.ToUpper(d.Atom()) }

// TryWord takes the word (in any case) when it comes next, followed by no atom char.
func (d *Decoder) TryWord(word string) bool {
	if d.err != nil || len(d.text)-d.pos < len(word) {
		return false
	}
	end := d.pos + len(word)
	if !strings.EqualFold(string(d.text[d.pos:end]), word) || end < len(d.text) && IsAtomChar(d.text[end]) {
		return false
	}
	d.pos = end
	return true
}

// IsString reports whether a quoted string or a literal comes next.
func (d *Decoder) IsString() bool { return d.Peek() == '"' || d.Peek() == '{' }

// AString takes an atom (with ']') or a string.
func (d *Decoder) AString() string {
	if d.IsString() {
		return d.String()
	}
	a := d.while(func(c byte) bool { return IsAtomChar(c) || c == ']' })
	if len(a) == 0 {
		d.Fail("a string")
	}
	return string(a)
}

// String takes a quoted string or a literal.
func (d *Decoder) String() string {
	switch d.Peek() {
	case '"':
		return d.quoted()
	case '{':
		return string(d.literal())
	}
	d.Fail("a quoted string or a literal")
	return ""
}

func (d *Decoder) quoted() string {
	d.pos++
	var out strings.Builder
	for d.pos < len(d.text) {
		c := d.text[d.pos]
		d.pos++
		switch c {
		case '"':
			return out.String()
		case '\\':
			if d.pos >= len(d.text) || d.text[d.pos] != '"' && d.text[d.pos] != '\\' {
				d.Fail(`only " or \ after \ in a quoted string`)
				return ""
			}
			out.WriteByte(d.text[d.pos])
			d.pos++
		case '\r', '\n', 0:
			d.Fail("the quoted string's end")
			return ""
		default:
			out.WriteByte(c) // 8-bit too: clients send raw UTF-8 in SEARCH
		}
	}
	d.Fail("the quoted string's end")
	return ""
}

func (d *Decoder) literal() []byte {
	rest := d.text[d.pos:]
	nl := bytes.Index(rest, []byte("\r\n"))
	if nl < 0 {
		d.Fail("a literal")
		return nil
	}
	lit, ok := LineLiteral(rest[:nl])
	// The announcement must begin here, not merely end the line.
	if !ok || bytes.IndexByte(rest[:nl], '}') != nl-1 || bytes.LastIndexByte(rest[:nl], '{') != 0 {
		d.Fail("a literal")
		return nil
	}
	start := nl + 2
	if int64(len(rest)-start) < lit.Size {
		d.Fail("%d bytes of literal", lit.Size)
		return nil
	}
	out := rest[start : start+int(lit.Size)]
	d.pos += start + int(lit.Size)
	if bytes.IndexByte(out, 0) >= 0 {
		d.Fail("a literal without NUL") // RFC 3501, section 9: CHAR8
		return nil
	}
	return out
}

// AtLiteralEnd reports whether all that is left is the announcement of a literal
// whose bytes are not in the text: the message of an APPEND.
func (d *Decoder) AtLiteralEnd() bool {
	if d.Peek() != '{' {
		return false
	}
	rest := d.text[d.pos:]
	_, ok := LineLiteral(rest)
	return ok && bytes.HasSuffix(rest, []byte("}\r\n")) && bytes.Count(rest, []byte("\n")) == 1
}

// Number takes a 32-bit number.
func (d *Decoder) Number() uint32 {
	n := d.Number64()
	if n > 1<<32-1 {
		d.Fail("a number below 2^32")
		return 0
	}
	return uint32(n)
}

// Number64 takes a number below 2^63.
func (d *Decoder) Number64() int64 {
	digits := d.while(func(c byte) bool { return c >= '0' && c <= '9' })
	if len(digits) == 0 || len(digits) > maxLiteralDigits {
		d.Fail("a number")
		return 0
	}
	var n int64
	for _, c := range digits {
		n = n*10 + int64(c-'0')
	}
	return n
}

// List takes a parenthesised list, calling item for each member.
func (d *Decoder) List(item func()) {
	d.Expect('(')
	if d.Try(')') {
		return
	}
	for d.err == nil {
		item()
		if d.Try(')') {
			return
		}
		d.SP()
	}
}

// Flag takes a flag: an atom, with a backslash before it or not, or \*.
func (d *Decoder) Flag() string {
	if !d.Try('\\') {
		return d.Atom()
	}
	if d.Try('*') {
		return `\*`
	}
	return `\` + d.Atom()
}

// FlagList takes a parenthesised list of flags.
func (d *Decoder) FlagList() []string {
	flags := []string{}
	d.List(func() { flags = append(flags, d.Flag()) })
	return flags
}

// Mailbox takes a mailbox name and returns it in UTF-8.
func (d *Decoder) Mailbox() string { return d.mailboxName(d.AString()) }

// ListMailbox takes LIST's pattern and returns it in UTF-8.
func (d *Decoder) ListMailbox() string {
	if d.IsString() {
		return d.mailboxName(d.String())
	}
	b := d.while(func(c byte) bool { return IsAtomChar(c) || c == ']' || c == '*' || c == '%' })
	if len(b) == 0 {
		d.Fail("a mailbox pattern")
	}
	return d.mailboxName(string(b))
}

func (d *Decoder) mailboxName(s string) string {
	name, err := DecodeUTF7(s)
	if err != nil && d.name == nil {
		d.name = &NameError{s}
	}
	return name
}

// Date takes RFC 3501's date, quoted or not. The result is that day in UTC.
func (d *Decoder) Date() time.Time {
	quoted := d.Try('"')
	b := d.while(func(c byte) bool { return c == '-' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' })
	if quoted {
		d.Expect('"')
	}
	t, err := time.Parse("2-Jan-2006", string(b))
	if err != nil {
		d.Fail("a date such as 1-Feb-1994")
	}
	return t
}

// DateTime takes RFC 3501's date-time, which is always quoted. A leap second is
// the second before it, as Go's time has none.
func (d *Decoder) DateTime() time.Time {
	if d.Peek() != '"' {
		d.Fail("a quoted date and time")
		return time.Time{}
	}
	s := d.quoted()
	if at := len("17-Jul-1996 02:44:"); strings.HasPrefix(s[min(at, len(s)):], "60 ") {
		s = s[:at] + "59" + s[at+2:]
	}
	t, err := time.Parse("_2-Jan-2006 15:04:05 -0700", s)
	if err != nil {
		d.Fail("a date and time such as \"17-Jul-1996 02:44:25 -0700\"")
	}
	return t
}

// maxTagBytes is the longest tag that is accepted.
const maxTagBytes = 100

// IsTag reports whether s can be a command's tag (RFC 3501, section 9: any
// ASTRING-CHAR except "+").
func IsTag(s string) bool {
	if s == "" || len(s) > maxTagBytes {
		return false
	}
	for i := range len(s) {
		if s[i] == '+' || s[i] != ']' && !IsAtomChar(s[i]) {
			return false
		}
	}
	return true
}

// Tag takes a command's tag.
func (d *Decoder) Tag() string {
	b := d.while(func(c byte) bool { return c != ' ' && c != '\r' && c != '\n' })
	if !IsTag(string(b)) {
		d.Fail("a tag")
		return ""
	}
	return string(b)
}

// Base64 takes base64 text as it is, or "=" (RFC 4959, section 3).
func (d *Decoder) Base64() string {
	b := d.while(func(c byte) bool {
		return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '+' || c == '/' || c == '='
	})
	if len(b) == 0 {
		d.Fail("base64")
	}
	return string(b)
}

// FetchKeyword takes the name of a FETCH item or section: letters, digits, '.'
// (an atom would take '[' and '<' too). It returns it in capitals.
func (d *Decoder) FetchKeyword() string {
	b := d.while(func(c byte) bool { return c == '.' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' })
	if len(b) == 0 {
		d.Fail("the name of an item")
	}
	return strings.ToUpper(string(b))
}
