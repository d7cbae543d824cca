package mime

import (
	"bufio"
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-message/textproto"
	"github.com/google/go-cmp/cmp"
)

// wellFormed are messages that a strict parser reads as well.
var wellFormed = [...]string{
	example,
	"From: Ann <ann@example.org>\r\nTo: bob@example.com, \"C. D.\" <cd@example.net>\r\nSubject: plain\r\n" +
		"Message-ID: <1@example.org>\r\nIn-Reply-To: <0@example.org>\r\n" +
		"Content-Type: text/plain; charset=utf-8; format=flowed\r\nContent-Transfer-Encoding: 8bit\r\n" +
		"Content-Language: en, de\r\nContent-Location: http://example.org/\r\n\r\nline\r\nline\r\n",
	"From: a@b.example\r\nSender: s@b.example\r\nReply-To: R <r@b.example>\r\nCc: c@b.example\r\nBcc: d@b.example\r\n" +
		"Content-Type: multipart/mixed;\r\n boundary=\"=_o\"\r\n\r\npreamble\r\n--=_o\r\n" +
		"Content-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\r\n--i\r\n" +
		"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>=3D</p>\r\n\r\n--i--\r\n" +
		"--=_o  \r\nContent-Type: application/pdf; name=\"a b.pdf\"\r\nContent-ID: <x@y>\r\nContent-Description: a file\r\n" +
		"Content-Disposition: attachment; filename=\"a b.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJD\r\n--=_o--\r\nepilogue\r\n",
}

// TestOracle compares with a parser that shares nothing with ours.
func TestOracle(t *testing.T) {
	messages := append([]string{string(bigMessage(50))}, wellFormed[:]...)
	for i, raw := range messages {
		m, _ := mustScan(t, []byte(raw))
		want := imapserver.ExtractBodyStructure(strings.NewReader(raw))
		if d := cmp.Diff(plainStructure(want), plainPart(m.Root)); d != "" {
			t.Errorf("message %d (-oracle +ours):\n%s", i, d)
		}
		h, err := textproto.ReadHeader(bufio.NewReader(bytes.NewReader([]byte(raw))))
		if err != nil {
			t.Fatal(err)
		}
		e := m.Root.Envelope
		oracle := imapserver.ExtractEnvelope(h)
		if len(oracle.Sender) == 0 {
			oracle.Sender = oracle.From
		}
		if len(oracle.ReplyTo) == 0 {
			oracle.ReplyTo = oracle.From
		}
		if d := cmp.Diff(plainOracle(oracle), plainEnvelope(e)); d != "" {
			t.Errorf("envelope %d (-oracle +ours):\n%s", i, d)
		}
	}
}

// node is a part in words that both sides can say.
type node struct {
	Type, ID, Description, Encoding, Disposition, Location string
	Params, DispositionParams                              map[string]string
	Language                                               []string
	Size, Lines                                            int64
	Subject                                                string
	Children                                               []node
}

func plainPart(p *Part) node {
	n := node{Type: p.Type + "/" + p.Subtype, Location: p.Location, Language: p.Language, Params: paramMap(p.Params),
		Disposition: p.Disposition.Word, DispositionParams: paramMap(p.Disposition.Params)}
	for _, c := range p.Children {
		n.Children = append(n.Children, plainPart(c))
	}
	if p.Kind == KindMultipart {
		return n
	}
	n.ID, n.Description, n.Encoding, n.Size = p.ID, p.Description, p.Encoding, p.End-p.Body
	if p.Type == "text" || p.Kind == KindMessage {
		n.Lines = p.Lines
	}
	if p.Kind == KindMessage {
		n.Subject = p.Children[0].Envelope.Subject.Value
	}
	return n
}

func plainStructure(bs imap.BodyStructure) node {
	n := node{Type: bs.MediaType()}
	if d := bs.Disposition(); d != nil {
		n.Disposition, n.DispositionParams = d.Value, emptyIsNil(d.Params)
	}
	switch bs := bs.(type) {
	case *imap.BodyStructureMultiPart:
		n.Params, n.Language, n.Location = emptyIsNil(bs.Extended.Params), bs.Extended.Language, bs.Extended.Location
		for _, c := range bs.Children {
			n.Children = append(n.Children, plainStructure(c))
		}
	case *imap.BodyStructureSinglePart:
		n.Params, n.Language, n.Location = emptyIsNil(bs.Params), bs.Extended.Language, bs.Extended.Location
		n.ID, n.Description, n.Encoding, n.Size = bs.ID, bs.Description, bs.Encoding, int64(bs.Size)
		if n.Encoding == "" {
			n.Encoding = "7bit"
		}
		if bs.Text != nil {
			n.Lines = bs.Text.NumLines
		}
		if m := bs.MessageRFC822; m != nil {
			n.Lines, n.Subject = m.NumLines, m.Envelope.Subject
			n.Children = []node{plainStructure(m.BodyStructure)}
		}
	}
	return n
}

func paramMap(params []Param) map[string]string {
	if len(params) == 0 {
		return nil
	}
	out := make(map[string]string)
	for _, p := range params {
		out[p.Name] = p.Value
	}
	return out
}

func emptyIsNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

func plainOracle(e *imap.Envelope) []string {
	var replies string
	if len(e.InReplyTo) > 0 {
		replies = "<" + strings.Join(e.InReplyTo, "> <") + ">"
	}
	id := e.MessageID
	if id != "" {
		id = "<" + id + ">"
	}
	out := []string{e.Subject, id, replies}
	for list := range slices.Values([][]imap.Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc}) {
		text := ""
		for _, a := range list {
			text += a.Name + "|" + a.Mailbox + "|" + a.Host + " "
		}
		out = append(out, text)
	}
	return out
}

func plainEnvelope(e *Envelope) []string {
	out := []string{e.Subject.Value, e.MessageID.Value, e.InReplyTo.Value}
	for list := range slices.Values([][]Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc}) {
		text := ""
		for _, a := range list {
			text += a.Name + "|" + a.Mailbox + "|" + a.Host + " "
		}
		out = append(out, text)
	}
	return out
}
