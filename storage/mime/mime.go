// Package mime reads messages as they really are. Scan makes one pass over the bytes of a message and finds where its
// parts begin and end; Summary is what the store keeps of that for the life of the message: ENVELOPE and BODYSTRUCTURE
// in wire form, the header fields that clients ask for in lists, and the byte range of every section.
//
// Nothing is refused: any bytes are a message (RFC 2045 section 5.2 and RFC 2049 section 2 say what to make of broken
// ones). Offsets count from the first byte of the message, sizes are in octets as stored, and lines are counted by
// their LF, so that messages with bare LF line ends come out right as well.
package mime

// Limits of one scan. What lies beyond them stays readable as bytes; only its structure is not described.
const (
	maxDepth         = 50        // multiparts and embedded messages inside one another
	maxParts         = 1000      // beyond it everything is the body of the last part
	maxHeaderBytes   = 256 << 10 // of one part's header; fields beyond it are ignored
	maxFieldBytes    = 16 << 10  // of one field's value, for structure
	maxAddressBytes  = 64 << 10  // of one address field's value: lists of a thousand recipients are real mail
	maxParams        = 100       // parameters of one field
	maxLanguages     = 50        // tags of one Content-Language
	maxBoundaryBytes = 1000      // RFC 2046 section 5.1.1 allows 70; not all senders know
	maxTextBytes     = 512 << 10 // strings kept of one message, all parts together
	maxListHeaders   = 16 << 10  // bytes of Summary.ListHeaders
	maxQuotedBytes   = 1000      // longer strings go out as literals
)

// Message is what Scan found.
type Message struct {
	Root *Part
	Size int64 // octets

	listHeaders    []byte
	listHeadersCut bool
}

// Kind tells what a part holds.
type Kind uint8

// The kinds of part.
const (
	KindLeaf      Kind = iota
	KindMultipart      // Children are its parts, at least one
	KindMessage        // message/rfc822 or message/global; Children[0] is the message inside
)

// Part is one part of a message, or a message itself.
type Part struct {
	Kind Kind
	Extent
	Lines int64 // LFs in the body

	Type, Subtype   string  // lower case
	Params          []Param // names in lower case, values unquoted; RFC 2231: see joinParams
	ID, Description string  // "" is absent, here and below
	Encoding        string  // Content-Transfer-Encoding, lower case
	MD5             string
	Disposition     Disposition
	Language        []string
	Location        string
	Envelope        *Envelope // of a message (the root, or one embedded), nil for other parts

	Children []*Part
}

// Extent is where a part lies, in bytes from the start of the whole message: its header is [Header, Body), empty line
// included, its body is [Body, End).
type Extent struct{ Header, Body, End int64 }

// Disposition is a Content-Disposition (RFC 2183), or "".
type Disposition struct {
	Word   string // lower case
	Params []Param
}

// Param is one parameter of a Content-Type or Content-Disposition.
type Param struct{ Name, Value string }

// Param returns the value of the first Content-Type parameter with that lower-case name.
func (p *Part) Param(name string) (value string, ok bool) {
	return findParam(p.Params, name)
}

// allowance is how many bytes of text a scan may still keep.
type allowance int

// take reports whether n more bytes may be kept; some room is counted for what surrounds them.
func (a *allowance) take(n int) bool {
	const around = 16
	if int(*a) < n+around {
		return false
	}
	*a -= allowance(n + around)
	return true
}

// text returns s if it may be kept.
func (a *allowance) text(s string) string {
	if s == "" || !a.take(len(s)) {
		return ""
	}
	return s
}

func (a *allowance) params(params []Param) []Param {
	for i, p := range params {
		if !a.take(len(p.Name) + len(p.Value)) {
			return params[:i]
		}
	}
	return params
}
