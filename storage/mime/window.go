package mime

import (
	"bytes"
	"io"
)

// fill reads more into the window, which moves to the front of the buffer first. It does nothing when there is no room.
func (s *scanner) fill() error {
	if s.start > 0 {
		s.end = copy(s.buf, s.buf[s.start:s.end])
		s.work += int64(s.end)
		s.start = 0
	}
	for range maxEmptyReads {
		if s.eof || s.end == len(s.buf) {
			return nil
		}
		n, err := s.r.Read(s.buf[s.end:])
		s.end += n
		if err == io.EOF {
			s.eof = true
		} else if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
	}
	return io.ErrNoProgress
}

// line returns the next line with its LF; a piece without one when the line is longer than the window or the message
// ends; nothing at the end. It stays in the window until advance.
func (s *scanner) line() ([]byte, error) {
	for {
		w := s.buf[s.start:s.end]
		if i := bytes.IndexByte(w[s.searched:], '\n'); i >= 0 {
			s.work += int64(i + 1)
			return w[:s.searched+i+1], nil
		}
		s.work += int64(len(w) - s.searched)
		s.searched = len(w)
		if s.eof || len(w) == len(s.buf) {
			return w, nil
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
}

// advance moves past a line that line returned.
func (s *scanner) advance(line []byte) {
	n := len(line)
	s.start += n
	s.off += int64(n)
	s.searched = 0
	s.lineStart = line[n-1] == '\n'
	if !s.lineStart {
		s.lastCR = line[n-1] == '\r'
		return
	}
	s.lines++
	s.breakLen = 1
	if n > 1 && line[n-2] == '\r' || n == 1 && s.lastCR {
		s.breakLen = 2
	}
	s.lastCR = false
}

// skipLines moves past the whole lines of the window that cannot be delimiters: nearly every line of every body.
func (s *scanner) skipLines() {
	if !s.lineStart {
		return
	}
	w := s.buf[s.start:s.end]
	i := 0
	for len(w)-i >= 2 && (w[i] != '-' || w[i+1] != '-') {
		j := bytes.IndexByte(w[i:], '\n')
		if j < 0 {
			break
		}
		i += j + 1
		s.lines++
	}
	if i == 0 {
		return
	}
	s.work += int64(i)
	s.breakLen = 1
	if i > 1 && w[i-2] == '\r' {
		s.breakLen = 2
	}
	s.start += i
	s.off += int64(i)
	s.searched, s.lastCR = 0, false
}

// drain counts what is left of a message in which no delimiter can come any more.
func (s *scanner) drain() error {
	for {
		w := s.buf[s.start:s.end]
		s.work += int64(len(w))
		s.lines += int64(bytes.Count(w, []byte{'\n'}))
		s.off += int64(len(w))
		s.start, s.end, s.searched = 0, 0, 0
		if s.eof {
			return nil
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}
