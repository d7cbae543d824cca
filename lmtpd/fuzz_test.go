package lmtpd

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"mailnode/storage/slot"
)

// FuzzReplies: however go-smtp's writes are cut, the client never sees CHUNKING
// in the answer to LHLO, that answer is one well-formed reply, and everything
// that does not answer LHLO, MAIL, RCPT or DATA passes unchanged.
func FuzzReplies(f *testing.F) {
	f.Add("250-Hello x\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE\r\n", 7, true)
	f.Add("250-Hello CHUNKING\r\n250-SIZE\r\n250 CHUNKING\r\n", 1, false)
	f.Add("250 Hello\r\n", 3, true)
	f.Add("501 5.5.2 no\r\n250-x\n250\n", 2, true)
	f.Add("25", 1, true)
	f.Add("250-x\r\n250- CHUNKING\r\n250 chun\u212aing\r\n", 9, false)
	f.Add("250-x\r\n250-\r\n250 \r\n", 9, false)
	f.Fuzz(func(t *testing.T, text string, cut int, tls bool) {
		cut = 1 + max(cut, -cut, 0)%64
		play := func(verb string) string {
			r := replies{hostname: "mx", sizeMax: 5, startTLS: tls}
			r.answer(verb)
			for p := []byte(text); len(p) > 0; {
				n := min(cut, len(p))
				r.add(bytes.Clone(p[:n]))
				p = p[n:]
			}
			return string(r.out)
		}
		whole := text[:strings.LastIndexByte(text, '\n')+1]
		if got := play("NOOP"); got != whole {
			t.Errorf("changed %q to %q", whole, got)
		}
		got := play("LHLO")
		if !strings.HasPrefix(text, "250") || !strings.HasPrefix(got, "250") {
			return
		}
		for i := 0; ; i++ {
			line, rest, _ := strings.Cut(got, "\n")
			got = rest
			switch {
			case i == 0 && line[4:] != "mx\r":
				t.Fatalf("first line %q", line)
			case !strings.HasPrefix(line, "250-") && !strings.HasPrefix(line, "250 "):
				if i == 0 || !strings.HasPrefix(line, "250") {
					return // another reply came between
				}
				t.Fatalf("line %q", line)
			case strings.EqualFold(strings.TrimSpace(line[4:]), "CHUNKING"):
				t.Fatalf("line %q", line)
			case line[3] == ' ':
				return
			}
		}
	})
}

// FuzzEnvelope: whatever a client says, go-smtp gets one line of one command,
// and a path that is accepted can stand in a header field.
func FuzzEnvelope(f *testing.F) {
	f.Add(`FROM:<"a\" > b"@example.net> SIZE=1 BODY=8BITMIME SMTPUTF8`)
	f.Add("TO:<@a,@b:u1@example.org> NOTIFY=NEVER")
	f.Add(`TO:<"u1+x \"y"@example.org>`)
	f.Add("from:<root>")
	f.Add("TO:<\"postmaster\">\t=")
	f.Fuzz(func(t *testing.T, args string) {
		if m := readMail(args); m.err == nil && (strings.ContainsAny(m.path, "\r\n\x00") || !utf8.ValidString(m.path)) {
			t.Errorf("%q: sender %q", args, m.path)
		}
		r := readRcpt(args, "u3@example.org")
		if r.err == nil {
			if a, err := slot.ParseAddress(string(r.to)); err != nil || a != r.to {
				t.Errorf("%q: recipient %q", args, r.to)
			}
		}
		line := r.rcptLine("mx.example.org")
		if strings.Count(line, "\n") != 1 || strings.Count(line, "\r") != 1 || !strings.HasSuffix(line, ">\r\n") {
			t.Errorf("%q: go-smtp gets %q", args, line)
		}
	})
}

// FuzzBody compares with the plain reading of RFC 5321: the first CRLF "." CRLF
// ends, a dot after CRLF goes; what follows stays in the buffer.
func FuzzBody(f *testing.F) {
	for _, s := range []string{".\r\n", "a\r\n.\r\nNOOP\r\n", "..a\r\n.b\r\n.\n.\r\r\n.\r\n", "\r\r\n.\r\n", strings.Repeat("x", 15) + "\r\n.\r\n", "\n.\r\n\r\n.\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all := "\r\n" + text
		want, after, ended := strings.Cut(all, "\r\n.\r\n")
		if ended && want != "" {
			want += "\r\n"
		} else if !ended {
			want = all
		}
		want = strings.ReplaceAll(want, "\r\n.", "\r\n")
		want = strings.TrimPrefix(want, "\r\n")
		for _, in := range []*bufio.Reader{
			bufio.NewReaderSize(strings.NewReader(text), 16),
			bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(text)), 16),
			bufio.NewReader(strings.NewReader(text)),
		} {
			got, err := io.ReadAll(newBody(in))
			if !ended {
				// What a broken connection leaves is never stored.
				if err != io.ErrUnexpectedEOF || !strings.HasPrefix(want, string(got)) {
					t.Fatalf("%q: got %q, %v without an end", text, got, err)
				}
				continue
			}
			rest, _ := io.ReadAll(in)
			if err != nil || string(got) != want || string(rest) != after {
				t.Fatalf("%q: got %q, %v, rest %q; want %q, rest %q", text, got, err, rest, want, after)
			}
		}
	})
}

// FuzzHeaderFilter: no Return-Path before the first empty line, nothing else
// lost, and the cuts of the writes change nothing.
func FuzzHeaderFilter(f *testing.F) {
	f.Add("Return-Path: <a>\r\n b\r\nSubject: x\r\n\r\nReturn-Path: kept\r\n")
	f.Add("return-PATH:\nA: b\n\n")
	f.Add("Return-Pat")
	f.Add("\r\nReturn-Path: x")
	f.Add("\rReturn-Path: x")
	f.Add("Return-PAth:00\nR") // an end that could begin the same field
	f.Add("Return-Path:00\n\r")
	f.Add("Return-Path\t : <a>\r\n b\r\nReturn-Path\r\n :\r\nReturn-Path-Not: x\r\n\r\n")
	f.Add("Return-Path" + strings.Repeat(" ", 2*startBytesMax) + ": kept")
	f.Fuzz(func(t *testing.T, text string) {
		var want strings.Builder
		drop, header := false, true
		for l := range strings.Lines(text) {
			if header {
				folded := l[0] == ' ' || l[0] == '\t'
				if strings.Trim(l, "\r") == "\n" && len(l) <= 2 {
					header = false
				}
				if !folded {
					name, _, field := strings.Cut(l[:min(len(l), startBytesMax)], ":")
					drop = field && strings.EqualFold(strings.TrimRight(name, " \t"), returnPath)
				}
			}
			if !header || !drop {
				want.WriteString(l)
			}
		}
		for _, cut := range []int{1, 5, len(text) + 1} {
			var got bytes.Buffer
			h := headerFilter{to: &got}
			for p := []byte(text); len(p) > 0; {
				n := min(cut, len(p))
				if m, err := h.Write(p[:n]); m != n || err != nil {
					t.Fatalf("wrote %d, %v", m, err)
				}
				p = p[n:]
			}
			h.Flush()
			if got.String() != want.String() {
				t.Fatalf("%q cut at %d: got %q, want %q", text, cut, got.String(), want.String())
			}
		}
	})
}
