"""The formulas of docs/losses.md as loops over lists of floats, slow and obvious."""

from __future__ import annotations

import math


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(row):
    length = math.sqrt(dot(row, row))
    return [value / length for value in row]


def cosine(a, b):
    return dot(unit(a), unit(b))


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def softmax(logits):
    top = max(logits)
    powers = [math.exp(v - top) for v in logits]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def margin_softmax(embedding, prototypes, labels, scale, margin, normalised=True):
    losses = []
    for row, label in zip(embedding, labels, strict=True):
        if normalised:
            logits = [scale * (cosine(row, w) - margin * (c == label)) for c, w in enumerate(prototypes)]
        else:
            logits = [dot(row, w) for w in prototypes]
        losses.append(-math.log(softmax(logits)[label]))
    return mean(losses)


def alignment(query, gallery):
    return mean(1 - cosine(q, g) for q, g in zip(query, gallery, strict=True))


def l2_alignment(query, gallery):
    return mean((a - b) ** 2 for q, g in zip(query, gallery, strict=True) for a, b in zip(q, g, strict=True))


def contrastive(query, gallery, labels, margin):
    pulls, pushes = [], []
    for i, q in enumerate(query):
        for j, g in enumerate(gallery):
            s = cosine(q, g)
            if labels[i] == labels[j]:
                pulls.append(1 - s)
            elif s > margin:
                pushes.append(s - margin)
    return mean(pulls) + mean(pushes)


def triplet(query, gallery, labels, margin):
    losses = []
    for i, q in enumerate(query):
        for p, positive in enumerate(gallery):
            for n, negative in enumerate(gallery):
                if labels[p] == labels[i] != labels[n]:
                    excess = cosine(q, negative) - cosine(q, positive) + margin
                    if excess > 0:
                        losses.append(excess)
    return mean(losses)


def nearest(g, candidates, neighbours):
    return sorted(range(len(candidates)), key=lambda j: -cosine(g, candidates[j]))[:neighbours]


def contextual(query, gallery, candidates, neighbours, query_temperature, gallery_temperature):
    losses = []
    for q, g in zip(query, gallery, strict=True):
        rows = nearest(g, candidates, neighbours)
        p = softmax([cosine(g, candidates[j]) / gallery_temperature for j in rows])
        losses.append(kl(p, softmax([cosine(q, candidates[j]) / query_temperature for j in rows])))
    return mean(losses)


def structure(query, gallery, anchors, query_temperature, gallery_temperature):
    losses = []
    size = len(anchors[0][0])
    for q, g in zip(query, gallery, strict=True):
        for part, centres in enumerate(anchors):
            cut = slice(part * size, (part + 1) * size)
            p = softmax([dot(unit(g)[cut], c) / gallery_temperature for c in centres])
            losses.append(kl(p, softmax([dot(unit(q)[cut], c) / query_temperature for c in centres])))
    return mean(losses)


def ranking(query, gallery, candidates, neighbours, temperature):
    losses = []
    for q, g in zip(query, gallery, strict=True):
        rows = nearest(g, candidates, neighbours)
        known, seen = ([cosine(v, candidates[j]) for j in rows] for v in (g, q))
        for i in range(len(rows)):
            for j in range(len(rows)):
                ahead = 0.5 if i == j else float(known[j] > known[i])
                guess = 1 / (1 + math.exp(-(seen[j] - seen[i]) / temperature))
                losses.append((guess - ahead) ** 2)
    return mean(losses)


def decoupled(query, gallery, candidates, neighbours, feature, inconsistent, consistent):
    wrong, right = [], []
    for q, g in zip(query, gallery, strict=True):
        rows = nearest(g, candidates, neighbours)
        known, seen = ([cosine(v, candidates[j]) for j in rows] for v in (g, q))
        sums = {-1: 0.0, 1: 0.0}
        for i in range(len(rows)):
            for j in range(len(rows)):
                wanted, found = known[j] - known[i], seen[j] - seen[i]
                if wanted * found:
                    sums[int(math.copysign(1, wanted * found))] += ((found - wanted) / (0.1 + abs(wanted))) ** 2
        wrong.append(math.sqrt(sums[-1]) / len(rows))
        right.append(math.sqrt(sums[1]) / len(rows))
    return feature * alignment(query, gallery) + inconsistent * mean(wrong) + consistent * mean(right)


def centres_of(gallery, labels, num_classes):
    centres, boundaries = [], []
    for c in range(num_classes):
        rows = [unit(g) for g, label in zip(gallery, labels, strict=True) if label == c]
        if not rows:
            centres.append([0.0] * len(gallery[0]))
            boundaries.append(-1.0)
            continue
        centre = unit([mean(column) for column in zip(*rows, strict=True)])
        centres.append(centre)
        boundaries.append(min(dot(row, centre) for row in rows))
    return centres, boundaries


def boundary(query, centres, boundaries, labels):
    return mean(max(0.0, boundaries[c] - cosine(q, centres[c])) for q, c in zip(query, labels, strict=True))


def centre_alignment(prototypes, centres, known):
    return mean(
        0.5 * sum((a - b) ** 2 for a, b in zip(unit(w), unit(c), strict=True))
        for w, c, k in zip(prototypes, centres, known, strict=True)
        if k
    )


def logits(query, prototypes, gallery, gallery_prototypes, scale, temperature):
    losses = []
    for q, g in zip(query, gallery, strict=True):
        p = softmax([scale * cosine(g, w) / temperature for w in gallery_prototypes])
        losses.append(kl(p, softmax([scale * cosine(q, w) / temperature for w in prototypes])))
    return temperature**2 * mean(losses)


def huber(a, b):
    difference = abs(a - b)
    return difference**2 / 2 if difference < 1 else difference - 0.5


def distances(rows):
    rows = [unit(row) for row in rows]
    count = len(rows)
    table = [[math.dist(a, b) for b in rows] for a in rows]
    scale = sum(map(sum, table)) / (count * (count - 1))
    return [value / scale for row in table for value in row]


def angles(rows):
    rows = [unit(row) for row in rows]
    found = []
    for x in rows:
        directions = [[b - a for a, b in zip(x, y, strict=True)] for y in rows]
        lengths = [math.sqrt(dot(d, d)) for d in directions]
        for j, a in enumerate(directions):
            for k, b in enumerate(directions):
                found.append(dot(a, b) / (lengths[j] * lengths[k]) if lengths[j] and lengths[k] else 0.0)
    return found


def relational(query, gallery, distance, angle):
    first = mean(huber(a, b) for a, b in zip(distances(query), distances(gallery), strict=True))
    second = mean(huber(a, b) for a, b in zip(angles(query), angles(gallery), strict=True))
    return distance * first + angle * second
