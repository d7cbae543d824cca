package imapd

import (
	"bytes"
	"fmt"
	"io"
	netmail "net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"mailnode/storage"
	"mailnode/storage/mime"
)

// candidate is a message that a SEARCH looks at. What it must read it reads once.
type candidate struct {
	*session
	storage.Message
	index   int // in the view
	summary *mime.Summary
	body    storage.BodyReader
}

func (m *candidate) close() {
	if m.body != nil {
		m.body.Close()
	}
}

func fieldCost(field string) cost {
	if mime.CoversHeader([]string{field}) {
		return costSummary
	}
	return costBody
}

func (m *candidate) load() error {
	if m.summary != nil {
		return nil
	}
	raw, err := m.session.store.Summary(m.ctx, m.view.ref, m.UID)
	if err != nil {
		return err
	}
	s, err := mime.ParseSummary(raw)
	if err != nil {
		return storage.Errorf(storage.ErrCorrupt, "read summary of UID %d: %w", m.UID, err)
	}
	m.summary = &s
	return nil
}

func (m *candidate) open() error {
	if err := m.load(); err != nil || m.body != nil {
		return err
	}
	b, err := m.session.store.OpenBody(m.ctx, m.view.ref, m.UID)
	m.body = b
	return err
}

// header gives the fields of that name ("": all) as they stand.
func (m *candidate) header(field string) ([]byte, error) {
	if err := m.load(); err != nil {
		return nil, err
	}
	if field != "" {
		if lines, ok := m.summary.HeaderFields([]string{field}); ok {
			return lines, nil
		}
	}
	if err := m.open(); err != nil {
		return nil, err
	}
	off, n, _ := m.summary.Locate(nil, mime.SectionHeader)
	head, err := m.read(off, n)
	if err == nil && field != "" {
		head = mime.FilterHeader(head, []string{field}, false)
	}
	return head, err
}

func (m *candidate) read(off, n int64) ([]byte, error) {
	b := make([]byte, min(n, headerBytesMax))
	if got, err := m.body.ReadAt(b, off); got < len(b) {
		return nil, fmt.Errorf("read header of UID %d: %w", m.UID, err)
	}
	return b, nil
}

// fieldHas says whether a field of that name holds needle, which is in lower
// case; an empty one asks only for the field (RFC 3501, section 6.4.4).
func (m *candidate) fieldHas(field, needle string) (bool, error) {
	lines, err := m.header(field)
	if err != nil {
		return false, err
	}
	return fieldsHave(lines, needle), nil
}

func (m *candidate) headerHas(needle string) (bool, error) {
	head, err := m.header("")
	return err == nil && fieldsHave(head, needle), err
}

// fieldsHave looks at each field's value by itself, decoded.
func fieldsHave(lines []byte, needle string) bool {
	for len(lines) > 0 {
		end := 0
		for {
			nl := bytes.IndexByte(lines[end:], '\n')
			if nl < 0 {
				end = len(lines)
				break
			}
			end += nl + 1
			if end == len(lines) || lines[end] != ' ' && lines[end] != '\t' {
				break
			}
		}
		field := lines[:end]
		lines = lines[end:]
		if _, value, ok := bytes.Cut(field, []byte(":")); ok &&
			strings.Contains(strings.ToLower(mime.DecodeHeader(string(value))), needle) {
			return true
		}
	}
	return false
}

// sent gives the Date field; not ok when there is none that can be read.
func (m *candidate) sent() (time.Time, bool, error) {
	lines, err := m.header("Date")
	if err != nil {
		return time.Time{}, false, err
	}
	_, value, _ := bytes.Cut(lines, []byte(":"))
	if nl := bytes.IndexByte(value, '\n'); nl >= 0 {
		value = value[:nl]
	}
	t, err := netmail.ParseDate(strings.TrimSpace(string(value)))
	return t, err == nil, nil
}

// bodyHas looks through the text parts, decoded, and the headers of messages
// inside.
func (m *candidate) bodyHas(needle string) (bool, error) {
	if err := m.open(); err != nil {
		return false, err
	}
	for i := range m.summary.Parts {
		p := &m.summary.Parts[i]
		if i > 0 && m.summary.Parts[i-1].Kind == mime.KindMessage {
			head, err := m.read(p.Header, p.Body-p.Header)
			if err != nil {
				return false, err
			}
			if fieldsHave(head, needle) {
				return true, nil
			}
		}
		if p.Kind != mime.KindLeaf || p.Type != "text" {
			continue
		}
		if err := m.ctx.Err(); err != nil {
			return false, err
		}
		text := mime.TextReader(io.NewSectionReader(m.body, p.Body, p.End-p.Body), p.Encoding, p.Charset)
		if ok, err := readerHas(text, needle); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// readerHas looks for needle, in lower case, in a text of any length.
func readerHas(r io.Reader, needle string) (bool, error) {
	want := []byte(needle)
	var raw, window []byte
	chunk := make([]byte, 16<<10)
	for {
		n, err := r.Read(chunk)
		raw = append(raw, chunk[:n]...)
		cut := len(raw)
		if err == nil {
			cut -= unfinishedRune(raw)
		}
		window = append(window, bytes.ToLower(raw[:cut])...)
		raw = append(raw[:0], raw[cut:]...)
		if bytes.Contains(window, want) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read text: %w", err)
		}
		keep := min(len(window), max(len(want)-1, 0))
		window = append(window[:0], window[len(window)-keep:]...)
	}
}

// unfinishedRune gives how many bytes at the end begin a character that goes on.
func unfinishedRune(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				return i
			}
			return 0
		}
	}
	return 0
}
