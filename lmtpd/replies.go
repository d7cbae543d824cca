package lmtpd

import (
	"bytes"
	"strconv"
	"strings"
)

// replies edits what go-smtp writes to the client, line by line, however the
// writes are cut: the answer to LHLO, and codes that RFC 2033 wants otherwise.
type replies struct {
	hostname string
	sizeMax  int64 // bytes, for SIZE
	startTLS bool  // offer STARTTLS
	mute     bool  // swallow the next reply: the greeting of a connection that just went TLS

	verb     string // of the command that is being answered, upper case
	partial  []byte // a line not yet ended
	keywords []string
	out      []byte // ready for the network
}

// answer tells which command the next lines answer.
func (r *replies) answer(verb string) {
	r.verb = verb
	r.keywords = nil
}

// add takes bytes that go-smtp wrote.
func (r *replies) add(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.partial = append(r.partial, p...)
			return
		}
		line := p[:i+1]
		if len(r.partial) > 0 {
			line = append(r.partial, line...)
			r.partial = r.partial[:0]
		}
		r.line(line)
		p = p[i+1:]
	}
}

// line takes one whole line with its end. Nothing keeps it.
func (r *replies) line(l []byte) {
	last := len(l) < 4 || l[3] != '-'
	switch {
	case r.mute:
		r.mute = !last
	case r.verb == "LHLO" && bytes.HasPrefix(l, []byte("250")):
		r.keywords = append(r.keywords, strings.TrimRight(string(l[min(4, len(l)):]), "\r\n"))
		if last {
			r.lhlo(r.keywords[1:])
			r.answer("")
		}
	case bytes.HasPrefix(l, []byte("502 ")) && (r.verb == "MAIL" || r.verb == "RCPT" || r.verb == "DATA"):
		// A command out of its order is 503 (RFC 5321, section 4.1.4; RFC 2033,
		// section 4.2, for DATA without a recipient). go-smtp says 502.
		r.out = append(append(r.out, "503 "...), l[4:]...)
	case r.verb == "MAIL" && bytes.HasPrefix(l, []byte("250 ")): // go-smtp has not seen the sender
		r.out = append(r.out, "250 2.1.0 sender accepted\r\n"...)
	case r.verb == "RCPT" && bytes.HasPrefix(l, []byte("250 ")):
		r.out = append(r.out, "250 2.1.5 recipient accepted\r\n"...)
	default:
		r.out = append(r.out, l...)
	}
}

// lhlo writes the answer to LHLO: our name first (RFC 5321, section 4.1.1.1),
// SIZE with the limit (RFC 1870, section 3), never CHUNKING: go-smtp v0.25.0
// runs a refused chunk as commands, so conn takes no BDAT.
func (r *replies) lhlo(keywords []string) {
	lines := []string{r.hostname}
	for _, k := range keywords {
		words := strings.Fields(k)
		is := func(name string) bool { return strings.EqualFold(words[0], name) }
		switch {
		case len(words) == 0, is("CHUNKING"), is("BINARYMIME"), is("STARTTLS"):
		case is("SIZE"):
			lines = append(lines, "SIZE "+strconv.FormatInt(r.sizeMax, 10))
		default:
			lines = append(lines, strings.Join(words, " "))
		}
	}
	if r.startTLS {
		lines = append(lines, "STARTTLS")
	}
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		r.out = append(r.out, "250"+sep+l+"\r\n"...)
	}
}
