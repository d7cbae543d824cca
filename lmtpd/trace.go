package lmtpd

import (
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

// header returns the fields, each line ended by CRLF.
func (t trace) header() string {
	var b strings.Builder
	b.WriteString("Return-Path: <" + t.from + ">\r\n")
	if t.deliveredTo != "" {
		b.WriteString("Delivered-To: " + string(t.deliveredTo) + "\r\n")
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
