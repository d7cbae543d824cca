package match

import (
	"slices"
	"sort"
)

// Words are the words that are looked for. Add all of them before the first Finder is made.
type Words struct {
	numbers map[string]int // by folded word
	nodes   []node
	root    [256]int32 // the root's children by their bytes
	bytes   int
}

// node is one of an Aho-Corasick automaton: what was read last is the beginning of a word, and no longer beginning
// matches. The nodes are in the order of their depth; the children of one lie together, by their bytes.
type node struct {
	first int32 // child; the last one is before the next node's first
	fail  int32 // the longest other beginning that matches
	ends  int32 // the longest word that ends here, as its node; 0: none
	word  int32 // its number, if a word ends with this node; else -1
	label byte
}

// Add takes a word and returns its number. The empty word is in every text.
func (w *Words) Add(word string) int {
	word = Fold(word)
	number, ok := w.numbers[word]
	if !ok {
		if w.numbers == nil {
			w.numbers = map[string]int{}
		}
		number = len(w.numbers)
		w.numbers[word] = number
		w.bytes += len(word)
	}
	return number
}

// Bytes returns how long all words are together, as they are compared.
func (w *Words) Bytes() int { return w.bytes }

// build makes the automaton, in time linear in the words but for sorting them.
func (w *Words) build() {
	words := make([]string, 0, len(w.numbers))
	for word := range w.numbers {
		words = append(words, word)
	}
	slices.Sort(words)
	type group struct{ lo, hi, depth int } // words with the same beginning of that length
	groups := []group{{0, len(words), 0}}
	w.nodes = []node{{word: -1}}
	for at := 0; at < len(groups); at++ {
		g := groups[at]
		w.nodes[at].first = int32(len(groups))
		if g.lo < g.hi && len(words[g.lo]) == g.depth {
			w.nodes[at].word = int32(w.numbers[words[g.lo]])
			g.lo++
		}
		for g.lo < g.hi {
			label, hi := words[g.lo][g.depth], g.lo+1
			for hi < g.hi && words[hi][g.depth] == label {
				hi++
			}
			child := node{label: label, word: -1}
			if at > 0 {
				child.fail = w.step(w.nodes[at].fail, label)
			}
			if at == 0 {
				w.root[label] = int32(len(groups))
			}
			w.nodes = append(w.nodes, child)
			groups = append(groups, group{g.lo, hi, g.depth + 1})
			g.lo = hi
		}
		if n := &w.nodes[at]; n.word >= 0 {
			n.ends = int32(at)
		} else {
			n.ends = w.nodes[n.fail].ends
		}
	}
	w.nodes = append(w.nodes, node{first: int32(len(groups))}) // the end of the last one's children
}

// step returns the node after another byte.
func (w *Words) step(at int32, c byte) int32 {
	for at != 0 {
		if child := w.child(at, c); child != 0 {
			return child
		}
		at = w.nodes[at].fail
	}
	return w.root[c]
}

func (w *Words) child(at int32, c byte) int32 {
	lo, hi := w.nodes[at].first, w.nodes[at+1].first
	i := lo + int32(sort.Search(int(hi-lo), func(i int) bool { return w.nodes[lo+int32(i)].label >= c }))
	if i < hi && w.nodes[i].label == c {
		return i
	}
	return 0
}

// Finder looks for words in one text after another, and remembers which it has found.
type Finder struct {
	words *Words
	folder
	at    int32
	found []bool
	count int
	buf   []byte
}

// NewFinder returns a Finder of these words.
func NewFinder(w *Words) *Finder {
	if w.nodes == nil {
		w.build()
	}
	return &Finder{words: w, found: make([]bool, len(w.numbers))}
}

// Write reads the next piece of the present text. It never fails.
func (f *Finder) Write(text []byte) (n int, err error) {
	if f.count < len(f.found) {
		f.buf = f.appendFolded(f.buf[:0], text)
		f.read(f.buf)
	}
	return len(text), nil
}

// End ends the present text: no word goes on in the next.
func (f *Finder) End() {
	f.buf = f.appendEnd(f.buf[:0])
	f.read(f.buf)
	f.at = 0
}

// WriteText reads a whole text.
func (f *Finder) WriteText(text string) {
	f.buf = f.appendEnd(f.appendFolded(f.buf[:0], []byte(text)))
	f.read(f.buf)
	f.at = 0
}

// Found reports whether the word of that number was in one of the texts.
func (f *Finder) Found(number int) bool { return f.found[number] }

// Count returns how many words were found.
func (f *Finder) Count() int { return f.count }

// Reset forgets what was found.
func (f *Finder) Reset() {
	clear(f.found)
	f.at, f.count = 0, 0
	f.held, f.segment, f.marks = f.held[:0], f.segment[:0], 0
}

func (f *Finder) read(folded []byte) {
	w, at := f.words, f.at
	if n := w.nodes[0].word; n >= 0 {
		f.note(n) // the empty word
	}
	for _, c := range folded {
		if at == 0 {
			at = w.root[c]
		} else {
			at = w.step(at, c)
		}
		for end := w.nodes[at].ends; end != 0 && f.note(w.nodes[end].word); end = w.nodes[w.nodes[end].fail].ends {
		}
	}
	f.at = at
}

// note reports whether a word is new. The words that end where a known one does are known as well.
func (f *Finder) note(number int32) bool {
	if f.found[number] {
		return false
	}
	f.found[number] = true
	f.count++
	return true
}
