package mime

import (
	"fmt"
	"strconv"
	"strings"
)

// grammar checks wire text against RFC 3501 section 9. It is written from the grammar alone and shares nothing with the
// code that it checks.
type grammar struct {
	s   string
	pos int
}

type grammarError string

// checkGrammar runs one production over the whole of s.
func checkGrammar(s []byte, production func(g *grammar)) (err error) {
	g := &grammar{s: string(s)}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(grammarError)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("at byte %d of %q: %s", g.pos, g.s, string(e))
		}
	}()
	production(g)
	if g.pos != len(g.s) {
		g.fail("bytes left over")
	}
	return nil
}

func (g *grammar) fail(text string) { panic(grammarError(text)) }

func (g *grammar) peek(s string) bool { return strings.HasPrefix(g.s[g.pos:], s) }

func (g *grammar) want(s string) {
	if !g.peek(s) {
		g.fail("want " + strconv.Quote(s))
	}
	g.pos += len(s)
}

func (g *grammar) isNil() bool {
	if g.peek("NIL") {
		g.pos += 3
		return true
	}
	return false
}

func (g *grammar) number() int64 {
	begin := g.pos
	for g.pos < len(g.s) && g.s[g.pos] >= '0' && g.s[g.pos] <= '9' {
		g.pos++
	}
	n, err := strconv.ParseUint(g.s[begin:g.pos], 10, 32)
	if err != nil {
		g.fail("want number")
	}
	return int64(n)
}

func (g *grammar) str() string {
	if g.peek("{") {
		g.pos++
		n := int(g.number())
		g.want("}\r\n")
		if n > len(g.s)-g.pos {
			g.fail("literal too long")
		}
		s := g.s[g.pos : g.pos+n]
		if strings.Contains(s, "\x00") {
			g.fail("NUL in literal")
		}
		g.pos += n
		return s
	}
	g.want(`"`)
	var b strings.Builder
	for {
		if g.pos == len(g.s) {
			g.fail("quoted string without end")
		}
		c := g.s[g.pos]
		g.pos++
		switch {
		case c == '"':
			return b.String()
		case c == '\\':
			if !g.peek(`"`) && !g.peek(`\`) {
				g.fail("bad escape")
			}
			c = g.s[g.pos]
			g.pos++
		case c == 0 || c == '\r' || c == '\n' || c >= 0x80:
			g.fail("byte not allowed in quoted string")
		}
		b.WriteByte(c)
	}
}

// nstring returns nil for NIL.
func (g *grammar) nstring() *string {
	if g.isNil() {
		return nil
	}
	s := g.str()
	return &s
}

func (g *grammar) envelope() {
	g.want("(")
	g.nstring()
	g.want(" ")
	g.nstring()
	for range 6 {
		g.want(" ")
		g.addresses()
	}
	g.want(" ")
	g.nstring()
	g.want(" ")
	g.nstring()
	g.want(")")
}

func (g *grammar) addresses() {
	if g.isNil() {
		return
	}
	g.want("(")
	inGroup := false
	for first := true; first || !g.peek(")"); first = false {
		g.want("(")
		name := g.nstring()
		g.want(" ")
		route := g.nstring()
		g.want(" ")
		mailbox := g.nstring()
		g.want(" ")
		host := g.nstring()
		g.want(")")
		if host != nil {
			if mailbox == nil {
				g.fail("host without mailbox")
			}
			continue
		}
		if name != nil || route != nil || inGroup != (mailbox == nil) {
			g.fail("bad group syntax")
		}
		inGroup = !inGroup
	}
	if inGroup {
		g.fail("group without end")
	}
	g.want(")")
}

func (g *grammar) params() {
	if g.isNil() {
		return
	}
	g.want("(")
	for {
		g.str()
		g.want(" ")
		g.str()
		if g.peek(")") {
			break
		}
		g.want(" ")
	}
	g.want(")")
}

func (g *grammar) body()          { g.bodyOf(false) }
func (g *grammar) bodyStructure() { g.bodyOf(true) }

func (g *grammar) bodyOf(extended bool) {
	g.want("(")
	if g.peek("(") {
		for g.peek("(") {
			g.bodyOf(extended)
		}
		g.want(" ")
		g.str()
		if extended {
			g.want(" ")
			g.params()
			g.extension()
		}
		g.want(")")
		return
	}
	typ := strings.ToLower(g.str())
	g.want(" ")
	subtype := strings.ToLower(g.str())
	if typ == "multipart" {
		g.fail("multipart without parts")
	}
	g.want(" ")
	g.params()
	g.want(" ")
	g.nstring()
	g.want(" ")
	g.nstring()
	g.want(" ")
	g.str()
	g.want(" ")
	g.number()
	switch {
	case typ == "message" && subtype == "rfc822":
		g.want(" ")
		g.envelope()
		g.want(" ")
		g.bodyOf(extended)
		g.want(" ")
		g.number()
	case typ == "text":
		g.want(" ")
		g.number()
	}
	if extended {
		g.want(" ")
		g.nstring()
		g.extension()
	}
	g.want(")")
}

func (g *grammar) extension() {
	g.want(" ")
	if !g.isNil() {
		g.want("(")
		g.str()
		g.want(" ")
		g.params()
		g.want(")")
	}
	g.want(" ")
	if !g.isNil() {
		if g.peek("(") {
			g.want("(")
			for g.str(); g.peek(" "); g.str() {
				g.want(" ")
			}
			g.want(")")
		} else {
			g.str()
		}
	}
	g.want(" ")
	g.nstring()
}
