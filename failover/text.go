package failover

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// columns is the width of text for operators: a phone held upright. Commands to
// type are never broken, so that they can be copied.
const columns = 46

// shortBytes is the longest text that Raft's state keeps unchanged.
const shortBytes = 120

// short prepares a text for Raft's state such that the state machine keeps it as
// it is: otherwise Decide would see a difference for ever.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= shortBytes {
		return s
	}
	end := shortBytes - len("…")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// printer collects lines for an operator.
type printer struct{ b strings.Builder }

// line writes text wrapped at columns; lines after the first are indented more.
func (p *printer) line(indent int, format string, args ...any) {
	pad := strings.Repeat(" ", indent)
	used := 0
	for i, word := range strings.Fields(fmt.Sprintf(format, args...)) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
			p.b.WriteString(pad)
			used = indent
		case used+1+n > columns:
			p.b.WriteString("\n" + pad + "  ")
			used = indent + 2
		default:
			p.b.WriteByte(' ')
			used++
		}
		p.b.WriteString(word)
		used += n
	}
	p.b.WriteByte('\n')
}

// command writes a command to type, whole.
func (p *printer) command(c string) { p.b.WriteString("  " + c + "\n") }

func (p *printer) gap() { p.b.WriteByte('\n') }

func (p *printer) String() string { return p.b.String() }

func (p *printer) writeTo(w io.Writer) error {
	if _, err := io.WriteString(w, p.b.String()); err != nil {
		return fmt.Errorf("print plan: %w", err)
	}
	return nil
}
