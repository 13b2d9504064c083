"""Square tiles of a picture, as InternVL's dynamic preprocessing cuts them: grid choice and pixels, exactly.

Tiles stay bytes until they are on the device: a quarter of what float32 tiles move, and the same values afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from sightline.errors import InputError


@dataclass(frozen=True, slots=True)
class TileGrid:
    """How one picture is cut.

    Attributes:
        columns: Tiles in a row.
        rows: Tiles in a column.
        size: Side of a tile in pixels.
        thumbnail: Whether the whole picture follows as one more tile.
    """

    columns: int
    rows: int
    size: int
    thumbnail: bool

    @property
    def tiles(self) -> int:
        """Number of tiles, the thumbnail among them."""
        return self.columns * self.rows + self.thumbnail

    @property
    def target_size(self) -> tuple[int, int]:
        """Width and height in pixels that the picture is resized to, its aspect not kept."""
        return self.columns * self.size, self.rows * self.size

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Returns left, top, right, bottom of each tile on the resized picture, row by row."""
        side = self.size
        return [
            (column * side, row * side, (column + 1) * side, (row + 1) * side)
            for row in range(self.rows)
            for column in range(self.columns)
        ]


@lru_cache(maxsize=64)
def grid_candidates(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Returns (columns, rows) of every allowed grid by number of tiles; equals stay in CPython's set order.

    That order decides when two grids of one area are exactly as near to a picture's aspect. It follows from the
    hashes of small integers and from the order of insertion, so the set is filled as the original fills it.

    Raises:
        InputError: The limits do not leave a grid.
    """
    if not 1 <= min_tiles <= max_tiles:
        raise InputError(
            f"between {min_tiles} and {max_tiles} tiles", field="max_tiles", mend="give 1 <= min_tiles <= max_tiles"
        )
    found = {
        (columns, rows)
        for side in range(min_tiles, max_tiles + 1)
        for columns in range(1, side + 1)
        for rows in range(1, side + 1)
        if min_tiles <= columns * rows <= max_tiles
    }
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def choose_grid(
    width: int, height: int, *, max_tiles: int, min_tiles: int = 1, size: int = 448, use_thumbnail: bool = True
) -> TileGrid:
    """Chooses the grid whose aspect is nearest to the picture's (InternVL, `dynamic_preprocess`).

    Of grids exactly as near the later one wins if the picture has more than half as many pixels as that grid, so
    pictures of one shape get finer grids as they grow.

    Args:
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        max_tiles: Most tiles, without the thumbnail.
        min_tiles: Fewest tiles.
        size: Side of a tile in pixels.
        use_thumbnail: Append the whole picture where there is more than one tile.

    Raises:
        InputError: The picture has no pixels, or the limits leave no grid.
    """
    if width < 1 or height < 1:
        raise InputError(f"a picture of {width} x {height} pixels", mend="give a picture that is not empty")
    aspect, nearest, chosen = width / height, float("inf"), (1, 1)
    for columns, rows in grid_candidates(min_tiles, max_tiles):
        distance = abs(aspect - columns / rows)
        if distance < nearest:
            nearest, chosen = distance, (columns, rows)
        elif distance == nearest and width * height > 0.5 * size * size * columns * rows:
            chosen = (columns, rows)
    return TileGrid(*chosen, size, use_thumbnail and chosen != (1, 1))


def cut_tiles(picture: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Returns the tiles of one picture, resized by Pillow's bicubic filter on bytes.

    Args:
        picture: uint8 [height, width, 3], RGB.
        grid: From `choose_grid` for this picture's size.

    Returns:
        uint8 [tiles, 3, size, size], row by row, the thumbnail last.

    Raises:
        InputError: The picture is of another type or shape.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"a picture is {picture.dtype} {picture.shape}, expected uint8 [height, width, 3]")
    image, side = Image.fromarray(np.ascontiguousarray(picture)), grid.size
    whole = np.asarray(_resized(image, grid.target_size))
    cut = whole.reshape(grid.rows, side, grid.columns, side, 3).transpose(0, 2, 4, 1, 3)
    tiles = np.empty((grid.tiles, 3, side, side), np.uint8)
    tiles[: grid.rows * grid.columns].reshape(grid.rows, grid.columns, 3, side, side)[...] = cut
    if grid.thumbnail:
        tiles[-1] = np.asarray(_resized(image, (side, side))).transpose(2, 0, 1)
    return tiles


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
