package lmtpd

import (
	"bytes"
	"io"
	"net"
	"strings"
	"time"
	"unicode"

	"mailnode/storage/slot"
)

// trace is what final delivery writes in front of a message (RFC 5321, section
// 4.4): the same bytes for all recipients, so that all slots share one GUID,
// and without "for", so that no recipient learns of another.
type trace struct {
	hostname    string
	lhlo        string
	client      net.Addr
	tls, utf8   bool
	id          string
	from        string
	date        time.Time
	deliveredTo slot.Address // "": more than one recipient
}

// header gives the fields, each line ended by CRLF.
func (t trace) header() string {
	var b strings.Builder
	b.WriteString("Return-Path: <" + quoted(t.from) + ">\r\n")
	if t.deliveredTo != "" {
		b.WriteString("Delivered-To: " + quoted(string(t.deliveredTo)) + "\r\n")
	}
	b.WriteString("Received: from " + hostText(t.lhlo) + " (" + clientText(t.client) + ")\r\n")
	b.WriteString("\tby " + t.hostname + " with " + t.protocol() + " id " + t.id + ";\r\n")
	b.WriteString("\t" + t.date.Format("Mon, 2 Jan 2006 15:04:05 -0700") + "\r\n")
	return b.String()
}

// protocol is a name of RFC 3848, or RFC 6531, section 4.3.
func (t trace) protocol() string {
	p := "LMTP"
	if t.utf8 {
		p = "UTF8LMTP"
	}
	if t.tls {
		p += "S"
	}
	return p
}

// clientText is a TCP-info (RFC 5321, section 4.4), or a comment for a unix socket.
func clientText(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return "local socket"
	}
	ip := t.AddrPort().Addr().Unmap()
	if ip.Is4() {
		return "[" + ip.String() + "]"
	}
	return "[IPv6:" + ip.WithZone("").String() + "]"
}

// hostText makes the client's name harmless in a header field.
func hostText(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-._:[]", r):
			return r
		}
		return '?'
	}, name)
	if r := []rune(name); len(r) > 255 {
		return string(r[:255])
	}
	return name
}

// quoted gives an address its quotes back: go-smtp hands out local parts without.
func quoted(address string) string {
	local, domain := split(address)
	if domain == "" || !strings.ContainsAny(local, " \t()<>[]:;@\\,\"") && local != "" {
		return address
	}
	local = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local)
	return `"` + local + `"@` + domain
}

// headerFilter passes a message on without the Return-Path fields of its
// header section: RFC 5321, section 4.4, lets final delivery remove them, and a
// delivered message has exactly one. Nothing else is changed. It looks at most
// len(returnPath) bytes ahead, so lines may have any length.
type headerFilter struct {
	to   io.Writer
	held []byte // the beginning of a line, not decided yet
	mode filterMode
	drop bool // the field that the current line belongs to is removed
}

type filterMode int

const (
	lineStart filterMode = iota
	insideLine
	pastHeader
)

const returnPath = "return-path:"

// Write implements io.Writer.
func (f *headerFilter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		var err error
		switch f.mode {
		case pastHeader:
			_, err = f.to.Write(p)
			p = nil
		case insideLine:
			end := bytes.IndexByte(p, '\n') + 1
			if end == 0 {
				end = len(p)
			} else {
				f.mode = lineStart
			}
			err = f.pass(p[:end])
			p = p[end:]
		case lineStart:
			f.held = append(f.held, p[0])
			p = p[1:]
			err = f.decide()
		}
		if err != nil {
			return n - len(p), err
		}
	}
	return n, nil
}

// decide looks at the beginning of a line.
func (f *headerFilter) decide() error {
	l := string(f.held)
	switch {
	case l == "\r":
		return nil
	case l == "\n" || l == "\r\n":
		f.mode, f.drop = pastHeader, false
	case l[0] == ' ' || l[0] == '\t':
		f.mode = insideLine // a folded line goes where its field went
	case strings.EqualFold(l, returnPath):
		f.mode, f.drop = insideLine, true
	case strings.EqualFold(l, returnPath[:min(len(l), len(returnPath))]):
		return nil // not long enough to tell
	default:
		f.mode, f.drop = insideLine, false
		if l[len(l)-1] == '\n' {
			f.mode = lineStart
		}
	}
	return f.Flush()
}

// Flush passes on what was held back; after the last byte too.
func (f *headerFilter) Flush() error {
	h := f.held
	f.held = f.held[:0]
	if len(h) == 0 {
		return nil
	}
	return f.pass(h)
}

func (f *headerFilter) pass(p []byte) error {
	if f.drop {
		return nil
	}
	_, err := f.to.Write(p)
	return err
}
