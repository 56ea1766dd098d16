package layer

import "slices"

// A linkFinder finds what has to be written because of the names that files have, beside what
// changed by itself. It knows the names of files that have several in one of the trees.
type linkFinder struct {
	names   []linkName
	skipped []*Node // folders that were not looked into, as they are the same in both trees
}

// A linkName is a name of a file in the upper tree.
type linkName struct {
	node    *Node
	below   FileID // the file that it was in the lower tree, if that has several names
	changed bool
	same    bool // it is one file in both trees
}

// add takes in a name, and what it was below unless that is nothing or a folder.
func (l *linkFinder) add(was, is *Node, changed bool) {
	n := linkName{node: is, changed: changed}
	if was != nil {
		n.below, n.same = was.File, same(was, is)
	}
	if is.File != (FileID{}) || n.below != (FileID{}) {
		l.names = append(l.names, n)
	}
}

func (l *linkFinder) skip(folder *Node) { l.skipped = append(l.skipped, folder) }

// putLinked puts files with all their names where some are to be written, where they were not one
// file below, and where a file below became several: then the first of those stays.
func (d *differ) putLinked() error {
	if err := d.findLinked(); err != nil {
		return err
	}
	stays := map[FileID]bool{}
	for _, names := range d.links.files() {
		below := names[0].below
		write := slices.ContainsFunc(names, func(n linkName) bool {
			return n.changed || len(names) > 1 && (n.below != below || below == FileID{})
		})
		if !write && below != (FileID{}) {
			write = stays[below]
			stays[below] = true
		}
		if !write {
			continue
		}
		for _, n := range names {
			if err := d.put(n.node); err != nil {
				return err
			}
		}
	}
	return nil
}

// files gives the names of each file, ordered, and the files ordered by their first ones.
func (l *linkFinder) files() [][]linkName {
	slices.SortFunc(l.names, func(a, b linkName) int { return comparePaths(a.node.Path, b.node.Path) })
	var files [][]linkName
	index := map[FileID]int{}
	for _, n := range l.names {
		i, ok := index[n.node.File]
		if !ok || n.node.File == (FileID{}) {
			i = len(files)
			index[n.node.File] = i
			files = append(files, nil)
		}
		files[i] = append(files[i], n)
	}
	return files
}

// findLinked looks into the folders that were skipped, for other names of the files that are in
// question. Mostly there are none.
func (d *differ) findLinked() error {
	wanted := map[FileID]bool{}
	for _, n := range d.links.names {
		if !n.same {
			wanted[n.node.File] = true
		}
		if !n.same && !n.changed {
			wanted[n.below] = true
		}
	}
	delete(wanted, FileID{})
	if len(wanted) == 0 {
		d.links.names = nil // all of them are as they were
		return nil
	}
	folders := d.links.skipped
	for len(folders) > 0 {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		list, err := d.upper.List(folders[len(folders)-1])
		if err != nil {
			return err
		}
		folders = folders[:len(folders)-1]
		for _, n := range list {
			switch {
			case isFolder(n):
				folders = append(folders, n)
			case wanted[n.File]:
				d.links.names = append(d.links.names, linkName{node: n, below: n.File, same: true})
			}
		}
	}
	return nil
}
