package peer

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode"

	"mailnode/storage/slot"
)

const (
	tokenFormat    = 1
	tokenSumLen    = 4       // bytes of SHA-256 over the JSON
	tokenHeaderLen = 2 + 4   // length of the JSON, and the sum
	tokenMax       = 8 << 10 // bytes of a printed token
	// SeedsMax is how many addresses of members a token has at most.
	SeedsMax  = 16
	secretLen = 32
)

// Token lets one node join one cluster once. Whoever has it can join: it is a
// password, valid until it is used or the cluster forgets its ID.
type Token struct {
	Format  int           `json:"v"`
	Cluster string        `json:"c"`
	CA      Fingerprint   `json:"f"`
	Seeds   []string      `json:"s"` // host:port of members, asked in this order
	Name    slot.NodeName `json:"n,omitempty"`
	ID      string        `json:"i"`
	Secret  []byte        `json:"k"`
}

// NewToken makes a token for the node of that name ("" for any). The cluster
// keeps id → secretHash, the SHA-256 of the secret, and never the secret. seeds
// are 1 to 16 addresses of members.
func NewToken(cluster string, ca Fingerprint, seeds []string, name slot.NodeName) (token, id string, secretHash [32]byte, err error) {
	var random [8]byte
	rand.Read(random[:])
	t := Token{Format: tokenFormat, Cluster: cluster, CA: ca, Seeds: seeds, Name: name, ID: hex.EncodeToString(random[:]), Secret: make([]byte, secretLen)}
	rand.Read(t.Secret)
	if err := t.check(); err != nil {
		return "", "", secretHash, fmt.Errorf("make join token: %w", err)
	}
	payload, err := json.Marshal(t)
	if err != nil {
		return "", "", secretHash, fmt.Errorf("make join token: %w", err)
	}
	sum := sha256.Sum256(payload)
	b := binary.BigEndian.AppendUint16(nil, uint16(len(payload)))
	b = append(append(b, sum[:tokenSumLen]...), payload...)
	return tokenEncoding().EncodeToString(b), t.ID, sha256.Sum256(t.Secret), nil
}

// tokenEncoding is strict, so that no two texts are the same token.
func tokenEncoding() *base64.Encoding { return base64.RawURLEncoding.Strict() }

// ParseToken reads a printed token. White space in it is passed over: terminals
// and mail programs break long lines.
func ParseToken(printed string) (Token, error) {
	const again = "copy all of the line that `mailnode cluster token` printed"
	text := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, printed)
	if text == "" {
		return Token{}, errors.New("read join token: it is empty: " + again)
	}
	if len(text) > tokenMax {
		return Token{}, fmt.Errorf("read join token: %d characters, a token has at most %d: %s", len(text), tokenMax, again)
	}
	for i, r := range text {
		if r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return Token{}, fmt.Errorf("read join token: character %d is %q, which no token has: %s", i+1, r, again)
		}
	}
	// A cut can leave one odd character, or bits that belong to the next byte:
	// length is judged before spelling.
	head, err := base64.RawURLEncoding.DecodeString(text[:len(text)/4*4])
	if err != nil || len(head) < 2 {
		return Token{}, errors.New("read join token: it is cut off: " + again)
	}
	want := tokenEncoding().EncodedLen(tokenHeaderLen + int(binary.BigEndian.Uint16(head)))
	if len(text) < want {
		return Token{}, fmt.Errorf("read join token: it is cut off (or mistyped), %d of %d characters: %s", len(text), want, again)
	}
	b, err := tokenEncoding().DecodeString(text)
	if err != nil || len(text) > want {
		return Token{}, errors.New("read join token: it has a typing error: " + again)
	}
	payload := b[tokenHeaderLen:]
	sum := sha256.Sum256(payload)
	if !bytes.Equal(b[2:tokenHeaderLen], sum[:tokenSumLen]) {
		return Token{}, errors.New("read join token: it has a typing error (checksum): " + again)
	}
	var t Token
	if err := json.Unmarshal(payload, &t); err != nil {
		return Token{}, fmt.Errorf("read join token: %w", err)
	}
	if err := t.check(); err != nil {
		return Token{}, fmt.Errorf("read join token: %w", err)
	}
	return t, nil
}

func (t Token) check() error {
	switch {
	case t.Format != tokenFormat:
		return fmt.Errorf("format %d, this program knows %d: install the cluster's release of mailnode", t.Format, tokenFormat)
	case !isHex(t.Cluster, 16) || !isHex(string(t.CA), sha256.Size) || !isHex(t.ID, 8) || len(t.Secret) != secretLen:
		return errors.New("cluster ID, CA fingerprint, ID or secret has the wrong form")
	case len(t.Seeds) == 0 || len(t.Seeds) > SeedsMax:
		return fmt.Errorf("%d addresses of members, want 1 to %d", len(t.Seeds), SeedsMax)
	case t.Name != "":
		if err := CheckName(t.Name); err != nil {
			return err
		}
	}
	for _, seed := range t.Seeds {
		if _, _, err := net.SplitHostPort(seed); err != nil || len(seed) > addressMax {
			return fmt.Errorf("address %q of a member: want host:port", shorten(seed, 80))
		}
	}
	return nil
}

func isHex(s string, bytesLen int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == bytesLen && s == strings.ToLower(s)
}
