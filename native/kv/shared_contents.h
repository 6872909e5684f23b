// Contents that another thread of this process may take by a ticket, a string that passes through any message. Nothing is copied, and a
// ticket keeps nothing alive: it is worth something for as long as whoever made it keeps the content.
#pragma once

#include <memory>
#include <string>

#include "kv/content.h"

namespace latentwire {

std::string ticket_of(const std::shared_ptr<const KvContent>& content);
// nullptr if there was no such ticket in this process, or its content is gone.
std::shared_ptr<const KvContent> content_of_ticket(const std::string& ticket);

}  // namespace latentwire
